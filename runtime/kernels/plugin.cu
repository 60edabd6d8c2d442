// The projector as TensorRT launches it from an engine: inputs, then scalars, then outputs, and no scratch buffer. One
// block per image, of at most PROJECTOR_THREADS threads.
#include "top_k_projector.cuh"

// gram: [N, C, C]. vectors: out, [N, C, k]. Dynamic shared memory: 32 floats and the workspace
// (runtime/engines/plugin.py, shared_bytes).
extern "C" __global__ void __launch_bounds__(kdguard::PROJECTOR_THREADS)
    kdguard_plugin_top_k_projector(const float* gram, int channels, int rank, float* vectors) {
    float* const shared = dynamic_shared();
    const kdguard::CudaBlock block{shared};
    const std::size_t image = blockIdx.x, size = channels;
    kdguard::top_k_projector(block, gram + image * size * size, vectors + image * size * rank, shared + kdguard::WARP,
                             channels, rank);
}
