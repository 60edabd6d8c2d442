// What the host side needs of a GPU: launches, memory, events. Of CUDA, or of the CPU that stands in for it in tests.
//
// Everything returns 0 or an error code of the CUDA runtime. Only the runtime is used and it is linked statically, so
// the library loads on a machine without a driver, where every call fails with a code.
#pragma once

#include <utility>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include <chrono>
#include <cstdlib>
#include <cstring>
#endif

namespace kdguard::device {

constexpr int INVALID_VALUE = 1;  // cudaErrorInvalidValue
constexpr std::size_t SHARED_WITHOUT_ASKING = 48 * 1024;

#if defined(__CUDACC__)

using Stream = cudaStream_t;
using Event = cudaEvent_t;

template <class... Parameters, class... Arguments>
int launch(Stream stream, dim3 grid, dim3 block, std::size_t shared_bytes, void (*kernel)(Parameters...),
           Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// Most shared memory that a block may have on the current device.
inline int most_shared_bytes(std::size_t* bytes) {
    int device = 0, found = 0;
    if (const int failed = cudaGetDevice(&device)) return failed;
    const int failed = cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (!failed) *bytes = static_cast<std::size_t>(found);
    return failed;
}

template <class Kernel>
int allow_shared_bytes(Kernel kernel, std::size_t bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

#else

using Stream = void*;
using Event = std::chrono::steady_clock::time_point*;

template <class... Parameters, class... Arguments>
int launch(Stream, dim3 grid, dim3 block, std::size_t shared_bytes, void (*kernel)(Parameters...),
           Arguments&&... arguments) {
    kdguard_fibers::launch(grid, block, shared_bytes, [&] { kernel(arguments...); });
    return 0;
}

inline int most_shared_bytes(std::size_t* bytes) {
    *bytes = SHARED_WITHOUT_ASKING;
    return 0;
}

template <class Kernel>
int allow_shared_bytes(Kernel, std::size_t) {
    return 0;
}

#endif

}  // namespace kdguard::device
