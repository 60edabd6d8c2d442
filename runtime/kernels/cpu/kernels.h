// What one instruction set's build of the CPU code offers.
#pragma once

#include "../settings.h"
#include "map.h"

namespace kdguard {

// Of one image; `mean` is null where nothing is centred. All pointers are the caller's.
template <class Element>
struct ElementKernels {
    float (*channel_mean)(const Element* channel, const MapShape&, int stride);
    void (*gram_piece)(const Element* map, const MapShape&, int stride, const float* mean, std::int64_t first,
                       std::int64_t last, float* gram, float* workspace);
    void (*amplify_tile)(const Settings&, const float* rows, const float* offsets, const float* mean, float excess,
                         float strength, const Element* map, std::int64_t channels, std::int64_t length,
                         std::int64_t start, Element* output, float* change, bool past_caches, float* workspace);
    void (*restore)(const Element* perturbed, const float* change, std::int64_t count, bool past_caches,
                    Element* restored);
};

struct CpuKernels {
    std::int64_t panel, positions;  // of a Gram panel, of an amplify tile
    std::int64_t (*gram_workspace)(std::int64_t channels);
    std::int64_t (*amplify_workspace)(std::int64_t channels, int projections);
    void (*project)(const float* gram, float* vectors, float* workspace, int channels, int rank);
    void (*prepare_rows)(const Settings&, const float* gram, const float* vectors, const float* mean, int channels,
                         float* rows, float* offsets, float* excess, float* scratch);
    ElementKernels<float> wide;
    ElementKernels<_Float16> half;
};

}  // namespace kdguard
