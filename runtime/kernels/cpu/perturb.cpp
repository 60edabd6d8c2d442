#include "perturb.h"

#include <algorithm>
#include <vector>

#include "../top_k_projector.cuh"
#include "kernels.h"

namespace kdguard {

#if defined(__x86_64__)
namespace v2 { extern const CpuKernels kernels; }
namespace v3 { extern const CpuKernels kernels; }
namespace v4 { extern const CpuKernels kernels; }
#else
namespace generic { extern const CpuKernels kernels; }
#endif

namespace {

constexpr std::int64_t FEWEST_PIECES = 4, MOST_PIECES = 16;  // of a Gram matrix, each of about
constexpr std::int64_t PANELS = 4;                           // at least, or else adding up takes longer than it helps
constexpr std::int64_t PARTIAL_GRAM_FLOATS = 2 << 20;        // of all pieces together, about
constexpr std::int64_t CACHE = 24 << 20;  // bytes: with 32 MB shared by all cores, whole models gained from there on
constexpr std::int64_t RESTORED_AT_ONCE = 1 << 16;

const CpuKernels& best() {
#if defined(__x86_64__)
    static const CpuKernels& chosen = __builtin_cpu_supports("x86-64-v4")   ? v4::kernels
                                      : __builtin_cpu_supports("x86-64-v3") ? v3::kernels
                                                                            : v2::kernels;
    return chosen;
#else
    return generic::kernels;
#endif
}

const ElementKernels<float>& of(const CpuKernels& kernels, const float*) { return kernels.wide; }
const ElementKernels<_Float16>& of(const CpuKernels& kernels, const _Float16*) { return kernels.half; }

// A thread's own floats, kept from call to call: maps come in the same sizes again and again. They start at a cache
// line, because a wide register that straddles two lines takes twice as long to fill.
float* workspace(std::size_t floats) {
    thread_local std::vector<float> own;
    constexpr std::size_t LINE = 64;
    if (own.size() < floats + LINE / sizeof(float)) own.resize(floats + LINE / sizeof(float));
    const auto address = reinterpret_cast<std::uintptr_t>(own.data());
    return reinterpret_cast<float*>((address + LINE - 1) / LINE * LINE);
}

// Whether a node touches more than the last cache holds. Then what it writes first is gone before anybody reads it, and
// to keep it out of the caches saves traffic: memory need not be read before it is written.
bool outgrows_cache(std::int64_t bytes) { return bytes > CACHE; }

// Gram matrix [C, C] of one image's sampled positions, divided by how many they are.
template <class Element>
void gram_matrix(const Parallel& parallel, const CpuKernels& kernels, const Settings& settings, const MapShape& shape,
                 const Element* map, const float* mean, float* gram) {
    const std::int64_t count = shape.sampled(settings.stride);
    const std::int64_t size = shape.channels * shape.channels;
    // How the positions are cut must not depend on the number of threads, or else rounding would.
    const std::int64_t panels = (count + kernels.panel - 1) / kernels.panel;
    const std::int64_t wanted = std::clamp(panels / PANELS, FEWEST_PIECES, MOST_PIECES);
    const std::int64_t most = std::clamp<std::int64_t>(PARTIAL_GRAM_FLOATS / size, 1, wanted);
    const std::int64_t length = (panels + most - 1) / most * kernels.panel, pieces = (count + length - 1) / length;
    std::vector<float> partial(pieces * size);
    in_parallel(parallel, pieces, [&](std::size_t piece) {
        const std::int64_t first = static_cast<std::int64_t>(piece) * length;
        of(kernels, map).gram_piece(map, shape, settings.stride, mean, first, std::min(first + length, count),
                                    partial.data() + piece * size, workspace(kernels.gram_workspace(shape.channels)));
    });
    for (std::int64_t i = 0; i < shape.channels; ++i) {
        for (std::int64_t j = i; j < shape.channels; ++j) {
            float total = 0.0f;
            for (std::int64_t piece = 0; piece < pieces; ++piece) {
                total += partial[piece * size + i * shape.channels + j];
            }
            total /= static_cast<float>(count);
            gram[i * shape.channels + j] = gram[j * shape.channels + i] = total;
        }
    }
}

}  // namespace

void project(const Parallel& parallel, std::int64_t images, int channels, int rank, const float* gram,
             float* vectors) {
    const CpuKernels& kernels = best();
    in_parallel(parallel, images, [&](std::size_t image) {
        kernels.project(gram + image * channels * channels, vectors + image * channels * rank,
                        workspace(projector_workspace(channels, rank)), channels, rank);
    });
}

template <class Element>
void perturb(const Parallel& parallel, const Settings& settings, const MapShape& shape, float strength,
             const Element* map, Element* output, float* change) {
    const CpuKernels& kernels = best();
    const ElementKernels<Element>& element = of(kernels, map);
    const std::int64_t channels = shape.channels, length = shape.positions(), whole = channels * length;
    const std::int64_t projections = settings.projections(), rank = settings.rank;
    std::vector<float> gram(channels * channels), vectors(channels * rank), rows(projections * channels);
    std::vector<float> offsets(projections), means(settings.centred ? channels : 0), scratch(TAIL_GROUPS * rank * rank);
    const float* mean = settings.centred ? means.data() : nullptr;
    const std::int64_t tiles = (length + kernels.positions - 1) / kernels.positions;
    const bool past_caches = outgrows_cache(whole * (2 * sizeof(Element) + (change == nullptr ? 0 : sizeof(float))));
    for (std::int64_t image = 0; image < shape.images; ++image) {
        const Element* own = map + image * whole;
        if (settings.centred) {
            in_parallel(parallel, channels, [&](std::size_t c) {
                means[c] = element.channel_mean(own + c * length, shape, settings.stride);
            });
        }
        gram_matrix(parallel, kernels, settings, shape, own, mean, gram.data());
        kernels.project(gram.data(), vectors.data(), workspace(projector_workspace(channels, rank)), channels, rank);
        float excess;
        kernels.prepare_rows(settings, gram.data(), vectors.data(), mean, channels, rows.data(), offsets.data(),
                             &excess, scratch.data());
        in_parallel(parallel, tiles, [&](std::size_t tile) {
            element.amplify_tile(settings, rows.data(), offsets.data(), mean, excess, strength, own, channels, length,
                                 static_cast<std::int64_t>(tile) * kernels.positions, output + image * whole,
                                 change == nullptr ? nullptr : change + image * whole, past_caches,
                                 workspace(kernels.amplify_workspace(channels, projections)));
        });
    }
}

template <class Element>
void restore(const Parallel& parallel, std::int64_t count, const Element* perturbed, const float* change,
             Element* restored) {
    const auto& element = of(best(), perturbed);
    const bool past_caches = outgrows_cache(count * (2 * sizeof(Element) + sizeof(float)));
    in_parallel(parallel, (count + RESTORED_AT_ONCE - 1) / RESTORED_AT_ONCE, [&](std::size_t piece) {
        const std::int64_t first = static_cast<std::int64_t>(piece) * RESTORED_AT_ONCE;
        element.restore(perturbed + first, change + first, std::min(RESTORED_AT_ONCE, count - first), past_caches,
                        restored + first);
    });
}

template void perturb(const Parallel&, const Settings&, const MapShape&, float, const float*, float*, float*);
template void perturb(const Parallel&, const Settings&, const MapShape&, float, const _Float16*, _Float16*, float*);
template void restore(const Parallel&, std::int64_t, const float*, const float*, float*);
template void restore(const Parallel&, std::int64_t, const _Float16*, const float*, _Float16*);

}  // namespace kdguard
