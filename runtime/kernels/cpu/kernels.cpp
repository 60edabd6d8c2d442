// One build of the CPU code; compiled once per instruction set, see lanes.h.
#include "kernels.h"

#include "../amplify.cuh"
#include "amplify.h"
#include "gram.h"
#include "vector_block.h"

namespace kdguard {
namespace KDGUARD_ISA {

template <class Element>
static void amplify_entry(const Settings& settings, const float* rows, const float* offsets, const float* mean,
                          float excess, float strength, const Element* map, std::int64_t channels,
                          std::int64_t length, std::int64_t start, Element* output, float* change, bool past_caches,
                          float* workspace) {
    amplify_tile(settings, Rows{rows, offsets, mean, excess, strength}, map, channels, length, start, output, change,
                 past_caches, workspace);
}

template <class Element>
static void restore(const Element* perturbed, const float* change, std::int64_t count, bool past_caches,
                    Element* restored) {
    std::int64_t p = 0;
    if constexpr (sizeof(Element) == sizeof(float)) {
        if (past_caches && starts_a_line(restored)) {
            for (; p + LANES <= count; p += LANES) {
                store_past_caches(restored + p, load(perturbed + p) - load(change + p));
            }
            finish_stores();
        }
    }
    for (; p < count; ++p) restored[p] = static_cast<Element>(static_cast<float>(perturbed[p]) - change[p]);
}

static void project(const float* gram, float* vectors, float* workspace, int channels, int rank) {
    top_k_projector(VectorBlock(), gram, vectors, workspace, channels, rank);
}

static void prepare(const Settings& settings, const float* gram, const float* vectors, const float* mean,
                    int channels, float* rows, float* offsets, float* excess, float* scratch) {
    prepare_rows(VectorBlock(), settings, gram, vectors, mean, channels, rows, offsets, excess, scratch);
}

extern const CpuKernels kernels;
const CpuKernels kernels = {
    PANEL,
    POSITIONS,
    gram_workspace,
    amplify_workspace,
    project,
    prepare,
    {channel_mean<float>, gram_piece<float>, amplify_entry<float>, restore<float>},
    {channel_mean<_Float16>, gram_piece<_Float16>, amplify_entry<_Float16>, restore<_Float16>},
};

}  // namespace KDGUARD_ISA
}  // namespace kdguard
