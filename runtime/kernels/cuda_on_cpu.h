// Runs CUDA kernels of this folder on a CPU, thread by thread, so that their own source is tested without a GPU.
//
// Each CUDA thread is a fiber (ucontext) of one OS thread. A fiber runs until it reaches a barrier or a shuffle
// and then hands over to the next, so kernels see the semantics of __syncthreads and __shfl_xor_sync. Blocks run
// one after the other. Fibers take turns in order or in reverse; what a missing barrier changes in one of the two is found,
// other races are not. With the sanitizers it finds accesses out of bounds.
#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define KDGUARD_CUDA_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace kdguard_fibers {

constexpr std::size_t STACK_BYTES = 64 * 1024;
constexpr unsigned WARP = 32;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned current;
inline bool reversed;
inline dim3 block_index, grid_size, block_size;
inline unsigned char* dynamic_shared;
inline float exchanged[1024];
inline void (*entry)(void*);
inline void* entry_argument;

#if defined(__SANITIZE_ADDRESS__)
inline void* scheduler_fake_stack;
inline const void* scheduler_stack;
inline std::size_t scheduler_stack_size;
#endif

inline void yield() {
    Fiber& fiber = fibers[current];
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, scheduler_stack, scheduler_stack_size);
#endif
    swapcontext(&fiber.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_size);
#endif
}

inline void start() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
    entry(entry_argument);
    fibers[current].done = true;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_stack_size);
#endif
    swapcontext(&fibers[current].context, &scheduler);
}

// Runs `kernel` for every thread of every block, with fresh dynamic shared memory per block.
template <class Kernel>
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, Kernel kernel) {
    grid_size = grid;
    block_size = block;
    entry = [](void* argument) { (*static_cast<Kernel*>(argument))(); };
    entry_argument = &kernel;
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
        for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) {
            // Exactly as many bytes as asked for, so that the address sanitizer sees what lies beyond.
            std::unique_ptr<unsigned char, decltype(&std::free)> shared(
                static_cast<unsigned char*>(std::aligned_alloc(16, (shared_bytes + 16) / 16 * 16)), &std::free);
            std::memset(shared.get(), 0xff, shared_bytes);  // NaN: whoever reads before writing is seen
            dynamic_shared = shared.get();
            fibers.clear();
            fibers.resize(block.x);
            for (Fiber& fiber : fibers) {
                fiber.done = false;
                fiber.stack.reset(new char[STACK_BYTES]);
                getcontext(&fiber.context);
                fiber.context.uc_stack.ss_sp = fiber.stack.get();
                fiber.context.uc_stack.ss_size = STACK_BYTES;
                fiber.context.uc_link = nullptr;
                makecontext(&fiber.context, start, 0);
            }
            for (unsigned done = 0; done < block.x;) {
                done = 0;
                for (unsigned turn = 0; turn < block.x; ++turn) {
                    current = reversed ? block.x - 1 - turn : turn;
                    Fiber& fiber = fibers[current];
#if defined(__SANITIZE_ADDRESS__)
                    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack.get(), STACK_BYTES);
#endif
                    swapcontext(&scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
                    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
                    done += fiber.done;
                }
                if (done != 0 && done != block.x) {
                    std::fputs("some threads of a block ended while others waited at a barrier\n", stderr);
                    std::abort();
                }
            }
        }
    }
}

struct ThreadIndex {
    struct X {
        operator unsigned() const { return current; }
    } x;
};

}  // namespace kdguard_fibers

inline kdguard_fibers::ThreadIndex threadIdx;
#define blockIdx kdguard_fibers::block_index
#define gridDim kdguard_fibers::grid_size
#define blockDim kdguard_fibers::block_size

inline void __syncthreads() { kdguard_fibers::yield(); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
    using namespace kdguard_fibers;
    exchanged[current] = value;
    yield();
    const float other = exchanged[(current / WARP) * WARP + ((current % WARP) ^ static_cast<unsigned>(mask))];
    yield();
    return other;
}
