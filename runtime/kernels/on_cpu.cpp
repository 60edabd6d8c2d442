// The CUDA kernels and their host side behind the same C names, run by a CPU (cuda_on_cpu.h); and what only tests ask
// for.
// Built by python -m kdguard.runtime.kernels.build --kernels-on-cpu.
#include "cuda_on_cpu.h"

#define KDGUARD_GROUP_IMAGES 3  // so that small batches already need several groups

#include "device_api.cu"
#include "plugin.cu"

#include <vector>

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

// What CUDA does in device_api.cu, on a heap whose blocks the address sanitizer watches.
KDGUARD_EXPORT int kdguard_cuda_obstacle() { return 0; }
KDGUARD_EXPORT const char* kdguard_error_text(int code) { return code == 0 ? "no error" : "invalid argument"; }
KDGUARD_EXPORT int kdguard_allocate(void** address, std::size_t bytes) {
    return posix_memalign(address, 256, bytes);  // not a byte more than asked for
}
KDGUARD_EXPORT int kdguard_free(void* address) {
    std::free(address);
    return 0;
}
KDGUARD_EXPORT int kdguard_take_scratch(void** address, std::size_t bytes, void*) {
    return kdguard_allocate(address, bytes);
}
KDGUARD_EXPORT int kdguard_give_scratch_back(void* address, void*) { return kdguard_free(address); }
KDGUARD_EXPORT int kdguard_set_to_zero(void* address, std::size_t bytes, void*) {
    std::memset(address, 0, bytes);
    return 0;
}
KDGUARD_EXPORT int kdguard_copy_to_device(void* to, const void* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    return 0;
}
KDGUARD_EXPORT int kdguard_copy_to_host(void* to, const void* from, std::size_t bytes) {
    return kdguard_copy_to_device(to, from, bytes);
}
KDGUARD_EXPORT int kdguard_copy_on_device(void* to, const void* from, std::size_t bytes, void*) {
    return kdguard_copy_to_device(to, from, bytes);
}
KDGUARD_EXPORT int kdguard_synchronize() { return 0; }
KDGUARD_EXPORT int kdguard_describe_device(char* text, std::size_t size) {
    std::snprintf(text, size, "a CPU that runs the kernels thread by thread");
    return 0;
}
KDGUARD_EXPORT int kdguard_create_event(void** event) {
    *event = new std::chrono::steady_clock::time_point;
    return 0;
}
KDGUARD_EXPORT int kdguard_destroy_event(void* event) {
    delete static_cast<device::Event>(event);
    return 0;
}
KDGUARD_EXPORT int kdguard_record_event(void* event, void*) {
    *static_cast<device::Event>(event) = std::chrono::steady_clock::now();
    return 0;
}
KDGUARD_EXPORT int kdguard_milliseconds_between(void* first, void* second, float* milliseconds) {
    const auto time = *static_cast<device::Event>(second) - *static_cast<device::Event>(first);
    *milliseconds = std::chrono::duration<float, std::milli>(time).count();
    return 0;
}
