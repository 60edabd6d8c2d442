// The CUDA kernels behind a C interface that runs them on a CPU (cuda_on_cpu.h), and the projector as one thread runs
// it. For tests: python -m kdguard.runtime.kernels.build --kernels-on-cpu.
#include "cuda_on_cpu.h"

#include "kernels.cu"
#include "plugin.cu"

#include <vector>

#define KDGUARD_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::size_t row_bytes(const Settings& settings) {
    return (WARP + TAIL_GROUPS * settings.rank * settings.rank) * sizeof(float);
}

template <class Element, class Kernel>
void perturb(Kernel amplify_kernel, const Settings& settings, int images, int channels, long long length,
             const float* gram, const float* vectors, const float* mean, const float* strength, const Element* map,
             Element* output, float* change) {
    const int projections = settings.projections();
    std::vector<float> rows(static_cast<std::size_t>(images) * projections * channels), offsets(images * projections);
    std::vector<float> excess(images);
    kdguard_fibers::launch(dim3(images), dim3(WARP), row_bytes(settings), [&] {
        kdguard_prepare_rows(settings, gram, vectors, mean, channels, rows.data(), offsets.data(), excess.data());
    });
    const long long positions = amplify_positions(channels, settings);
    const dim3 grid(static_cast<unsigned>((length + positions - 1) / positions), images);
    kdguard_fibers::launch(grid, dim3(AMPLIFY_THREADS), amplify_shared_bytes(channels, settings), [&] {
        amplify_kernel(settings, map, rows.data(), offsets.data(), mean, excess.data(), strength, length, channels,
                       output, change);
    });
}

}  // namespace

// gram [N, C, C] -> vectors [N, C, k], by blocks of `threads` threads that work in shared memory or in a scratch
// buffer.
KDGUARD_EXPORT void project_by_blocks(const float* gram, float* vectors, int images, int channels, int rank,
                                      int threads, int in_shared_memory) {
    const std::size_t floats = projector_workspace(channels, rank);
    // On the heap and exactly as long as promised: the address sanitizer watches its end.
    std::vector<float> scratch(in_shared_memory ? 0 : images * floats);
    const std::size_t shared = (WARP + (in_shared_memory ? floats : 0)) * sizeof(float);
    kdguard_fibers::launch(dim3(images), dim3(threads), shared, [&] {
        kdguard_top_k_projector(gram, vectors, in_shared_memory ? nullptr : scratch.data(), channels, rank);
    });
}

// The same as TensorRT launches it, with the bytes of shared memory that it is told.
KDGUARD_EXPORT void project_as_plugin(const float* gram, float* vectors, int images, int channels, int rank,
                                      int threads, int shared_bytes) {
    kdguard_fibers::launch(dim3(images), dim3(threads), shared_bytes,
                           [&] { kdguard_plugin_top_k_projector(gram, channels, rank, vectors); });
}

KDGUARD_EXPORT int plugin_shared_bytes(int channels, int rank) {
    return static_cast<int>((WARP + projector_workspace(channels, rank)) * sizeof(float));
}

KDGUARD_EXPORT void project_by_one_thread(const float* gram, float* vectors, int images, int channels, int rank) {
    std::vector<float> workspace(projector_workspace(channels, rank));
    for (std::size_t image = 0; image < static_cast<std::size_t>(images); ++image) {
        top_k_projector(SerialBlock(), gram + image * channels * channels, vectors + image * channels * rank,
                        workspace.data(), channels, rank);
    }
}

// From now on threads of a block take their turns from the last to the first.
KDGUARD_EXPORT void run_in_reverse(int reverse) { kdguard_fibers::reversed = reverse != 0; }

// Everything of SvdPerturb behind the Gram matrix; mean, strength and change may be null.
KDGUARD_EXPORT void perturb_float(const Settings* settings, int images, int channels, long long length,
                                  const float* gram, const float* vectors, const float* mean, const float* strength,
                                  const float* map, float* output, float* change) {
    perturb(kdguard_amplify_float, *settings, images, channels, length, gram, vectors, mean, strength, map, output,
            change);
}

KDGUARD_EXPORT void perturb_half(const Settings* settings, int images, int channels, long long length,
                                 const float* gram, const float* vectors, const float* mean, const float* strength,
                                 const Half* map, Half* output, float* change) {
    perturb(kdguard_amplify_half, *settings, images, channels, length, gram, vectors, mean, strength, map, output,
            change);
}
