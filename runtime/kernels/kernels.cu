// Entry points of the CUDA kernels. Grids: one block per image, of at most PROJECTOR_THREADS threads; or (pieces of
// work, images), with at most 65535 images, since that is what the second axis of a grid takes. `svd_perturb.cuh`
// launches them.
#include "amplify.cuh"
#include "amplify_held.cuh"
#include "gram.cuh"
#include "gram_mma.cuh"
#include "top_k_projector.cuh"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using Half = __half;
using Bfloat16 = __nv_bfloat16;
#else
using Half = _Float16;
using Bfloat16 = kdguard_fibers::Bfloat16;
#endif

using namespace kdguard;

// Dynamic shared memory: 32 floats, and the workspace where `scratch` is null. scratch: [N, workspace].
extern "C" __global__ void __launch_bounds__(PROJECTOR_THREADS)
    kdguard_top_k_projector(const float* gram, float* vectors, float* scratch, int channels, int rank) {
    float* const shared = dynamic_shared();
    const CudaBlock block{shared};
    const std::size_t image = blockIdx.x, size = channels;
    float* workspace = scratch == nullptr ? shared + WARP : scratch + image * projector_workspace(channels, rank);
    top_k_projector(block, gram + image * size * size, vectors + image * size * rank, workspace, channels, rank);
}

// Dynamic shared memory: 32 + 4 k * k floats.
extern "C" __global__ void kdguard_prepare_rows(Settings settings, const float* gram, const float* vectors,
                                                const float* mean, int channels, float* rows, float* offsets,
                                                float* excess) {
    float* const shared = dynamic_shared();
    const CudaBlock block{shared};
    const std::size_t image = blockIdx.x, size = channels, projections = settings.projections();
    prepare_rows(block, settings, gram + image * size * size, vectors + image * size * settings.rank,
                 mean == nullptr ? nullptr : mean + image * size, channels, rows + image * projections * size,
                 offsets + image * projections, excess + image, shared + WARP);
}

namespace {

template <class Element>
KDGUARD_DEVICE void amplify(const Settings& settings, const Element* map, const float* rows, const float* offsets,
                            const float* mean, const float* excess, const float* strength, float stated,
                            long long length, int channels, Element* output, float* change, float* shared) {
    const std::size_t image = blockIdx.y, projections = settings.projections();
    const std::size_t offset = image * channels * length;
    const float applied = applied_strength(strength == nullptr ? &stated : strength);
    amplify_tile(settings, map + offset, rows + image * projections * channels, offsets + image * projections,
                 mean == nullptr ? nullptr : mean + image * channels, excess[image], applied, length, channels,
                 static_cast<long long>(blockIdx.x) * amplify_positions(channels, settings), shared, output + offset,
                 change == nullptr ? nullptr : change + offset);
}

}  // namespace

// strength: on the device, or null where `stated` holds it. Dynamic shared memory: amplify_shared_bytes.
#define KDGUARD_AMPLIFY(name, Element)                                                                              \
    extern "C" __global__ void __launch_bounds__(AMPLIFY_THREADS)                                                  \
        name(Settings settings, const Element* map, const float* rows, const float* offsets, const float* mean,    \
             const float* excess, const float* strength, float stated, long long length, int channels,             \
             Element* output, float* change) {                                                                     \
        float* const shared = dynamic_shared();                                                                    \
        amplify(settings, map, rows, offsets, mean, excess, strength, stated, length, channels, output, change,    \
                shared);                                                                                           \
    }

KDGUARD_AMPLIFY(kdguard_amplify_float, float)
KDGUARD_AMPLIFY(kdguard_amplify_half, Half)
KDGUARD_AMPLIFY(kdguard_amplify_bfloat16, Bfloat16)

// The same by `amplify_held`. Grid: (HELD_THREADS pairs of positions per block, images). Dynamic shared memory: HELD_RANK *
// CHANNELS floats.
template <class Element, int CHANNELS>
__global__ void __launch_bounds__(HELD_THREADS)
    kdguard_amplify_held(Settings settings, const Element* map, const float* rows, const float* offsets,
                         const float* mean, const float* excess, const float* strength, float stated, long long length,
                         int channels, Element* output, float* change) {
    float* const shared = dynamic_shared();
    const std::size_t image = blockIdx.y, offset = image * channels * length;
    const float applied = applied_strength(strength == nullptr ? &stated : strength);
    amplify_held<Element, CHANNELS>(settings, map + offset, rows + image * settings.rank * channels,
                                    offsets + image * settings.rank, mean == nullptr ? nullptr : mean + image * channels,
                                    excess[image], applied, length, channels,
                                    static_cast<long long>(blockIdx.x) * HELD_THREADS + threadIdx.x, shared,
                                    output + offset, change == nullptr ? nullptr : change + offset);
}

// Grid: (pieces * channels, images). Dynamic shared memory: 32 floats. sums: [N, C, pieces].
template <class Element>
__global__ void __launch_bounds__(MEAN_THREADS)
    kdguard_channel_sums(MapShape shape, int stride, GramPlan plan, const Element* map, float* sums) {
    float* const shared = dynamic_shared();
    const CudaBlock block{shared};
    const std::size_t channel = blockIdx.y * shape.channels + blockIdx.x / plan.mean_pieces;
    const int piece = static_cast<int>(blockIdx.x % plan.mean_pieces);
    const long long start = piece * plan.mean_piece, end = start + plan.mean_piece;
    const float sum = channel_sum(block, map + channel * shape.positions(), shape, stride, start,
                                  end < plan.count ? end : plan.count);
    if (block.thread() == 0) sums[channel * plan.mean_pieces + piece] = sum;
}

// Grid: (blocks, images), a thread per channel. mean: [N, C].
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    kdguard_channel_means(int channels, GramPlan plan, const float* sums, float* mean) {
    const int channel = static_cast<int>(blockIdx.x * THREADS + threadIdx.x);
    if (channel >= channels) return;
    const std::size_t entry = static_cast<std::size_t>(blockIdx.y) * channels + channel;
    double total = 0.0;
    for (int piece = 0; piece < plan.mean_pieces; ++piece) total += sums[entry * plan.mean_pieces + piece];
    mean[entry] = static_cast<float>(total / static_cast<double>(plan.count));
}

// Grid: (pieces * pairs of panels that are the same or not, images). Dynamic shared memory: gram_shared_bytes.
template <class Element, int SIDE, bool SAME>
__global__ void __launch_bounds__(GRAM_THREADS, (GRAM_BLOCKS<SIDE, SAME>))
    kdguard_gram_pieces(MapShape shape, int stride, GramPlan plan, const Element* map, const float* mean,
                        float* partial) {
    float* const shared = dynamic_shared();
    const int pairs = SAME ? plan.panels : plan.pairs() - plan.panels;
    const int piece = static_cast<int>(blockIdx.x) / pairs, pair = static_cast<int>(blockIdx.x) % pairs;
    const std::size_t image = blockIdx.y;
    int first = 0, second = 0;
    panels_of<SAME>(pair, plan.panels, first, second);
    const long long start = piece * plan.piece, end = start + plan.piece;
    float* own = partial + (image * plan.pieces + piece) * plan.partial_floats() +
                 static_cast<std::size_t>(SAME ? pair : plan.panels + pair) * SIDE * SIDE;
    gram_piece<Element, SIDE, SAME>(map + image * shape.channels * shape.positions(), shape, stride,
                                    mean == nullptr ? nullptr : mean + image * shape.channels, first, second, start,
                                    end < plan.count ? end : plan.count, own, shared);
}

// Up to 64 channels by matrix units, where the GPU has them. Grid: (pieces, images). Dynamic shared memory:
// gram_shared_bytes<true>(64), which is more than 64 * 64 floats.
template <class Element>
__global__ void __launch_bounds__(GRAM_THREADS, 2)
    kdguard_gram_mma(MapShape shape, GramPlan plan, const Element* map, float* partial) {
    float* const shared = dynamic_shared();
    const std::size_t image = blockIdx.y;
    const long long start = blockIdx.x * plan.piece, end = start + plan.piece;
    const long long last = end < plan.count ? end : plan.count;
    const Element* own = map + image * shape.channels * shape.positions();
    float* sums = partial + (image * plan.pieces + blockIdx.x) * plan.partial_floats();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    gram_piece_mma(own, shape, start, last, sums, shared);
#else
    gram_piece<Element, 64, true>(own, shape, 1, nullptr, 0, 0, start, last, sums, shared);
#endif
}

// Grid: (blocks, images), a thread per entry of a piece.
template <int SIDE>
__global__ void __launch_bounds__(GRAM_THREADS)
    kdguard_gram_totals(GramPlan plan, const float* partial, int channels, float* gram) {
    const std::size_t image = blockIdx.y;
    const long long entry = static_cast<long long>(blockIdx.x) * GRAM_THREADS + threadIdx.x;
    gram_total<SIDE>(plan, partial + image * plan.pieces * plan.partial_floats(), channels, entry,
                     gram + image * channels * channels);
}

// A thread takes every (threads of the grid)-th element.
template <class Element>
__global__ void kdguard_restore(long long count, const Element* perturbed, const float* change, Element* restored) {
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long p = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; p < count; p += step) {
        restored[p] = static_cast<Element>(static_cast<float>(perturbed[p]) - change[p]);
    }
}
