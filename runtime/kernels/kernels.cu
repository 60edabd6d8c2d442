// Entry points of the CUDA kernels. Grids: one block per image, of at most PROJECTOR_THREADS threads, or (tiles, images)
// for `amplify`, with at most 65535 images.
#include "amplify.cuh"
#include "top_k_projector.cuh"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using Half = __half;
#else
using Half = _Float16;
#endif

using namespace kdguard;

// Dynamic shared memory: 32 floats, and the workspace where `scratch` is null. scratch: [N, workspace].
extern "C" __global__ void __launch_bounds__(PROJECTOR_THREADS)
    kdguard_top_k_projector(const float* gram, float* vectors, float* scratch, int channels, int rank) {
    KDGUARD_DYNAMIC_SHARED(shared);
    const CudaBlock block{shared};
    const std::size_t image = blockIdx.x, size = channels;
    float* workspace = scratch == nullptr ? shared + WARP : scratch + image * projector_workspace(channels, rank);
    top_k_projector(block, gram + image * size * size, vectors + image * size * rank, workspace, channels, rank);
}

// Dynamic shared memory: 32 + 4 k * k floats.
extern "C" __global__ void kdguard_prepare_rows(Settings settings, const float* gram, const float* vectors,
                                                const float* mean, int channels, float* rows, float* offsets,
                                                float* excess) {
    KDGUARD_DYNAMIC_SHARED(shared);
    const CudaBlock block{shared};
    const std::size_t image = blockIdx.x, size = channels, projections = settings.projections();
    prepare_rows(block, settings, gram + image * size * size, vectors + image * size * settings.rank,
                 mean == nullptr ? nullptr : mean + image * size, channels, rows + image * projections * size,
                 offsets + image * projections, excess + image, shared + WARP);
}

namespace {

template <class Element>
KDGUARD_DEVICE void amplify(const Settings& settings, const Element* map, const float* rows, const float* offsets,
                            const float* mean, const float* excess, const float* strength, long long length,
                            int channels, Element* output, float* change, float* shared) {
    const std::size_t image = blockIdx.y, projections = settings.projections();
    const std::size_t offset = image * channels * length;
    const float applied = applied_strength(strength);
    amplify_tile(settings, map + offset, rows + image * projections * channels, offsets + image * projections,
                 mean == nullptr ? nullptr : mean + image * channels, excess[image], applied, length, channels,
                 static_cast<long long>(blockIdx.x) * amplify_positions(channels, settings), shared, output + offset,
                 change == nullptr ? nullptr : change + offset);
}

}  // namespace

#define KDGUARD_AMPLIFY(name, Element)                                                                              \
    extern "C" __global__ void __launch_bounds__(AMPLIFY_THREADS)                                                  \
        name(Settings settings, const Element* map, const float* rows, const float* offsets, const float* mean,    \
             const float* excess, const float* strength, long long length, int channels, Element* output,          \
             float* change) {                                                                                      \
        KDGUARD_DYNAMIC_SHARED(shared);                                                                            \
        amplify(settings, map, rows, offsets, mean, excess, strength, length, channels, output, change, shared);   \
    }

KDGUARD_AMPLIFY(kdguard_amplify_float, float)
KDGUARD_AMPLIFY(kdguard_amplify_half, Half)
#if defined(__CUDACC__)
KDGUARD_AMPLIFY(kdguard_amplify_bfloat16, __nv_bfloat16)
#endif
