// Threads that work on one problem together: a CUDA block, or one thread of a CPU.
//
// The algorithms in this folder are templates over such a block. They split loops by `thread()` and `threads()`, or
// the rows of a matrix by `team()` and its columns by `member()`. They meet at `sync()`, and add up with `sum`,
// which gives the same result on every run: partial sums are added in a fixed order and nothing is atomic.
#pragma once

#include <cmath>
#include <cstddef>

#if defined(__CUDACC__)
#define KDGUARD_BOTH __host__ __device__ __forceinline__
#define KDGUARD_DEVICE __device__ __forceinline__
#define KDGUARD_MEMBER __host__ __device__ __forceinline__
#define KDGUARD_DEVICE_MEMBER __device__ __forceinline__
#else
// Not merely inline: the CPU library holds these once per instruction set, and the linker must not merge them.
#define KDGUARD_BOTH static inline
#define KDGUARD_DEVICE static inline
#define KDGUARD_MEMBER inline __attribute__((always_inline))
#define KDGUARD_DEVICE_MEMBER KDGUARD_MEMBER
#endif

// The memory that a launch gives each block.
#if defined(__CUDACC__)
KDGUARD_DEVICE float* dynamic_shared() {
    extern __shared__ __align__(16) float kdguard_shared[];
    return kdguard_shared;
}
#elif defined(KDGUARD_CUDA_ON_CPU)
KDGUARD_DEVICE float* dynamic_shared() { return reinterpret_cast<float*>(kdguard_fibers::dynamic_shared); }
#endif

#if !defined(__CUDACC__)
struct alignas(16) float4 {
    float x, y, z, w;
};
#endif

// On a CPU: this loop may add up in any order, so wide registers can be used.
#if defined(__CUDACC__)
#define KDGUARD_SUMS(...)
#define KDGUARD_LARGEST(...)
#else
#define KDGUARD_PRAGMA(text) _Pragma(#text)
#define KDGUARD_SUMS(...) KDGUARD_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
#define KDGUARD_LARGEST(...) KDGUARD_PRAGMA(omp simd reduction(max : __VA_ARGS__))
#endif

namespace kdguard {

// Four floats at once; addresses are multiples of 16 bytes.
KDGUARD_BOTH void load_four(const float* from, float (&to)[4]) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
}

struct Plus {
    KDGUARD_MEMBER float operator()(float a, float b) const { return a + b; }
};

struct Larger {
    KDGUARD_MEMBER float operator()(float a, float b) const { return a > b ? a : b; }
};

// One thread: what the CPU library builds on.
struct SerialBlock {
    KDGUARD_MEMBER int thread() const { return 0; }
    KDGUARD_MEMBER int threads() const { return 1; }
    KDGUARD_MEMBER int team() const { return 0; }
    KDGUARD_MEMBER int teams() const { return 1; }
    KDGUARD_MEMBER int member() const { return 0; }
    KDGUARD_MEMBER int members() const { return 1; }
    KDGUARD_MEMBER void sync() const {}
    KDGUARD_MEMBER float sum(float own) const { return own; }
    KDGUARD_MEMBER float largest(float own) const { return own; }
};

#if defined(__CUDACC__) || defined(KDGUARD_CUDA_ON_CPU)

constexpr int WARP = 32;

// All threads of a CUDA block, a multiple of 32.
struct CudaBlock {
    float* partial;  // one float per warp, in shared memory

    KDGUARD_DEVICE_MEMBER int thread() const { return static_cast<int>(threadIdx.x); }
    KDGUARD_DEVICE_MEMBER int threads() const { return static_cast<int>(blockDim.x); }
    KDGUARD_DEVICE_MEMBER int team() const { return thread() / WARP; }
    KDGUARD_DEVICE_MEMBER int teams() const { return threads() / WARP; }
    KDGUARD_DEVICE_MEMBER int member() const { return thread() % WARP; }
    KDGUARD_DEVICE_MEMBER int members() const { return WARP; }
    KDGUARD_DEVICE_MEMBER void sync() const { __syncthreads(); }

    // Every thread gets the result. The same tree every time.
    template <class Combine>
    KDGUARD_DEVICE_MEMBER float combine(float own, Combine both) const {
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            own = both(own, __shfl_xor_sync(0xffffffffu, own, distance));
        }
        __syncthreads();  // whoever still reads the last result does so before this
        if (thread() % WARP == 0) partial[thread() / WARP] = own;
        __syncthreads();
        float all = partial[0];
        for (int warp = 1; warp < threads() / WARP; ++warp) all = both(all, partial[warp]);
        return all;
    }
    KDGUARD_DEVICE_MEMBER float sum(float own) const { return combine(own, Plus()); }
    KDGUARD_DEVICE_MEMBER float largest(float own) const { return combine(own, Larger()); }
};

#endif

}  // namespace kdguard
