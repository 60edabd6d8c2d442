#include "device_api.h"

#include <cstdio>
#include <mutex>

#include "svd_perturb.cuh"

namespace {

// Calls `work` with a null pointer of the element's type.
template <class Work>
int for_element(int element, Work work) {
    switch (element) {
        case FLOAT_MAP: return work(static_cast<float*>(nullptr));
        case HALF_MAP: return work(static_cast<Half*>(nullptr));
        case BFLOAT16_MAP: return work(static_cast<Bfloat16*>(nullptr));
        default: return device::INVALID_VALUE;
    }
}

bool is_empty(const MapShape& shape) { return shape.images == 0 || shape.positions() == 0; }

}  // namespace

KDGUARD_EXPORT std::size_t kdguard_svd_perturb_scratch(const Settings* settings, const MapShape* shape) {
    if (is_empty(*shape) || !is_within_limits(*settings, *shape)) return 0;
    const GramPlan plan = gram_plan(*shape, settings->stride);
    return Scratch(*settings, *shape, plan, images_of_a_group(*settings, *shape, plan)).floats * sizeof(float);
}

KDGUARD_EXPORT std::size_t kdguard_top_k_projector_scratch(long long images, int channels, int rank) {
    const long long together = images < GROUP_IMAGES ? images : GROUP_IMAGES;
    return together * projector_workspace(channels, rank) * sizeof(float);
}

KDGUARD_EXPORT int kdguard_svd_perturb(int element, const Settings* settings, const MapShape* shape,
                                       const float* strength, float stated, const void* map, void* output,
                                       float* change, void* scratch, void* stream) {
    if (!is_within_limits(*settings, *shape)) return device::INVALID_VALUE;
    if (is_empty(*shape)) return 0;
    return for_element(element, [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        return svd_perturb(*settings, *shape, strength, stated, static_cast<const Element*>(map),
                           static_cast<Element*>(output), change, static_cast<float*>(scratch),
                           static_cast<device::Stream>(stream));
    });
}

KDGUARD_EXPORT int kdguard_gram(int element, const Settings* settings, const MapShape* shape, const void* map,
                                float* gram, void* scratch, void* stream) {
    if (!is_within_limits(*settings, *shape)) return device::INVALID_VALUE;
    if (is_empty(*shape)) return 0;
    return for_element(element, [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        return gram_matrices(*settings, *shape, static_cast<const Element*>(map), gram, static_cast<float*>(scratch),
                             static_cast<device::Stream>(stream));
    });
}

KDGUARD_EXPORT int kdguard_project(long long images, int channels, int rank, const float* gram, float* vectors,
                                   void* scratch, void* stream) {
    if (channels < 1 || channels > MAX_CHANNELS || rank < 1 || rank > MAX_RANK) return device::INVALID_VALUE;
    Launches launch(static_cast<device::Stream>(stream));
    const long long size = channels;
    in_groups(MapShape{images, size, 1, 1}, GROUP_IMAGES, [&](const MapShape& group, long long, long long first) {
        launch_projector(launch, group.images, channels, rank, gram + first * size * size,
                         vectors + first * size * rank, static_cast<float*>(scratch));
    });
    return launch.status();
}

KDGUARD_EXPORT int kdguard_svd_restore(int element, long long count, const void* perturbed, const float* change,
                                       void* restored, void* stream) {
    if (count == 0) return 0;
    return for_element(element, [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        return svd_restore(count, static_cast<const Element*>(perturbed), change, static_cast<Element*>(restored),
                           static_cast<device::Stream>(stream));
    });
}

#if defined(__CUDACC__)

namespace {

constexpr int MOST_DEVICES = 64;
constexpr int NO_MEMORY_POOLS = -1;  // no code of the CUDA runtime's, whose text would not say what is missing

// A pool for each device, made when it is first asked for and kept. Of our own, because it keeps what is given back:
// a pool that hands memory back to the driver at every synchronisation would pay for it again in every run.
int pool_of_current_device(cudaMemPool_t* pool) {
    static std::mutex creating;
    static cudaMemPool_t pools[MOST_DEVICES] = {};
    int current = 0;
    if (const int failed = cudaGetDevice(&current)) return failed;
    if (current >= MOST_DEVICES) return device::INVALID_VALUE;
    const std::lock_guard<std::mutex> lock(creating);
    if (pools[current] == nullptr) {
        cudaMemPoolProps properties{};
        properties.allocType = cudaMemAllocationTypePinned;
        properties.location.type = cudaMemLocationTypeDevice;
        properties.location.id = current;
        cudaMemPool_t made = nullptr;
        if (const int failed = cudaMemPoolCreate(&made, &properties)) return failed;
        unsigned long long kept = SCRATCH_FLOATS * sizeof(float);
        if (const int failed = cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &kept)) {
            cudaMemPoolDestroy(made);
            return failed;
        }
        pools[current] = made;
    }
    *pool = pools[current];
    return 0;
}

}  // namespace

KDGUARD_EXPORT int kdguard_cuda_obstacle() {
    cudaFuncAttributes attributes;
    if (const int failed = cudaFuncGetAttributes(&attributes, kdguard_top_k_projector)) return failed;
    int current = 0, pools = 0;
    if (const int failed = cudaGetDevice(&current)) return failed;
    if (const int failed = cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, current)) return failed;
    return pools ? 0 : NO_MEMORY_POOLS;
}
KDGUARD_EXPORT const char* kdguard_error_text(int code) {
    if (code == NO_MEMORY_POOLS) return "this GPU, or its driver, has no memory pools";
    return cudaGetErrorString(static_cast<cudaError_t>(code));
}

KDGUARD_EXPORT int kdguard_take_scratch(void** address, std::size_t bytes, void* stream) {
    *address = nullptr;
    if (bytes == 0) return 0;
    cudaMemPool_t pool = nullptr;
    if (const int failed = pool_of_current_device(&pool)) return failed;
    return cudaMallocFromPoolAsync(address, bytes, pool, static_cast<cudaStream_t>(stream));
}
KDGUARD_EXPORT int kdguard_give_scratch_back(void* address, void* stream) {
    return address == nullptr ? 0 : static_cast<int>(cudaFreeAsync(address, static_cast<cudaStream_t>(stream)));
}
KDGUARD_EXPORT int kdguard_set_to_zero(void* address, std::size_t bytes, void* stream) {
    return cudaMemsetAsync(address, 0, bytes, static_cast<cudaStream_t>(stream));
}

KDGUARD_EXPORT int kdguard_allocate(void** address, std::size_t bytes) { return cudaMalloc(address, bytes); }
KDGUARD_EXPORT int kdguard_free(void* address) { return cudaFree(address); }
KDGUARD_EXPORT int kdguard_copy_to_device(void* to, const void* from, std::size_t bytes) {
    if (const int failed = cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice)) return failed;
    return cudaStreamSynchronize(cudaStreamLegacy);  // from pageable memory, the copy may still be on its way
}
KDGUARD_EXPORT int kdguard_copy_to_host(void* to, const void* from, std::size_t bytes) {
    return cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
}
KDGUARD_EXPORT int kdguard_copy_on_device(void* to, const void* from, std::size_t bytes, void* stream) {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream));
}
KDGUARD_EXPORT int kdguard_synchronize() { return cudaDeviceSynchronize(); }

KDGUARD_EXPORT int kdguard_describe_device(char* text, std::size_t size) {
    cudaDeviceProp properties;
    int current = 0;
    if (const int failed = cudaGetDevice(&current)) return failed;
    if (const int failed = cudaGetDeviceProperties(&properties, current)) return failed;
    std::snprintf(text, size, "%s, compute capability %d.%d", properties.name, properties.major, properties.minor);
    return 0;
}

KDGUARD_EXPORT int kdguard_create_event(void** event) { return cudaEventCreate(reinterpret_cast<cudaEvent_t*>(event)); }
KDGUARD_EXPORT int kdguard_destroy_event(void* event) { return cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
KDGUARD_EXPORT int kdguard_record_event(void* event, void* stream) {
    return cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream));
}
KDGUARD_EXPORT int kdguard_milliseconds_between(void* first, void* second, float* milliseconds) {
    if (const int failed = cudaEventSynchronize(static_cast<cudaEvent_t>(second))) return failed;
    return cudaEventElapsedTime(milliseconds, static_cast<cudaEvent_t>(first), static_cast<cudaEvent_t>(second));
}

#endif
