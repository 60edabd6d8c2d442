// Runs CUDA kernels of this folder on a CPU, thread by thread, so that their own source is tested without a GPU.
//
// Each CUDA thread is a fiber (ucontext) of one OS thread. A fiber runs until it reaches a barrier or a shuffle. At a
// shuffle it hands over to the next thread of its warp, and only at a barrier of the block to the next warp: warps run
// as far apart as barriers let them. Warps, and threads within them, take turns in order or in reverse; what a missing
// barrier changes in one of the two is found, other races are not. Blocks run one after the other. With the sanitizers
// it finds accesses out of bounds.
#pragma once

#include <ucontext.h>

#include <cstdint>
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

enum State { READY, AT_BARRIER, DONE };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    State state;
};

// As CUDA's: the upper half of a float, rounded to the nearest, to even where two are as near.
struct Bfloat16 {
    std::uint16_t bits;

    Bfloat16() = default;
    explicit Bfloat16(float value) {
        std::uint32_t whole;
        std::memcpy(&whole, &value, sizeof(whole));
        const bool is_nan = value != value;
        bits = is_nan ? 0x7fff : static_cast<std::uint16_t>((whole + 0x7fff + (whole >> 16 & 1)) >> 16);
    }
    explicit operator float() const {
        const std::uint32_t whole = static_cast<std::uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &whole, sizeof(value));
        return value;
    }
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

// Hands over, and comes back when the warp goes on (READY) or the block (AT_BARRIER).
inline void yield(State state) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
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
    fibers[current].state = DONE;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_stack_size);
#endif
    swapcontext(&fibers[current].context, &scheduler);
}

// Lets one thread run until it hands over.
inline void resume(unsigned thread) {
    current = thread;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fibers[thread].stack.get(), STACK_BYTES);
#endif
    swapcontext(&scheduler, &fibers[thread].context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline unsigned in_turn(unsigned place, unsigned count) { return reversed ? count - 1 - place : place; }

// Lets one warp run until all its threads are where `state` says, the same for all, and returns it.
inline State run_warp(unsigned warp) {
    for (;;) {
        unsigned counts[3] = {};
        for (unsigned place = 0; place < WARP; ++place) {
            const unsigned thread = warp * WARP + in_turn(place, WARP);
            resume(thread);
            ++counts[fibers[thread].state];
        }
        if (counts[AT_BARRIER] == WARP) return AT_BARRIER;
        if (counts[DONE] == WARP) return DONE;
        if (counts[READY] != WARP) {
            std::fputs("threads of a warp wait at different places, or some ended\n", stderr);
            std::abort();
        }
    }
}

inline void run_block(unsigned threads) {
    const unsigned warps = threads / WARP;
    for (unsigned done = 0; done < warps;) {
        done = 0;
        for (unsigned place = 0; place < warps; ++place) done += run_warp(in_turn(place, warps)) == DONE;
        if (done != 0 && done != warps) {
            std::fputs("some warps of a block ended while others waited at a barrier\n", stderr);
            std::abort();
        }
    }
}

// Runs `kernel` for every thread of every block, with fresh dynamic shared memory per block. Blocks are whole warps.
template <class Kernel>
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, Kernel kernel) {
    grid_size = grid;
    block_size = block;
    entry = [](void* argument) { (*static_cast<Kernel*>(argument))(); };
    entry_argument = &kernel;
    fibers.resize(block.x);
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
        for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) {
            // Exactly as many bytes as asked for, so that the address sanitizer sees what lies beyond.
            std::unique_ptr<unsigned char, decltype(&std::free)> shared(
                static_cast<unsigned char*>(std::aligned_alloc(16, (shared_bytes + 16) / 16 * 16)), &std::free);
            std::memset(shared.get(), 0xff, shared_bytes);  // NaN: whoever reads before writing is seen
            dynamic_shared = shared.get();
            for (Fiber& fiber : fibers) {
                fiber.state = READY;
                if (fiber.stack == nullptr) fiber.stack.reset(new char[STACK_BYTES]);
                getcontext(&fiber.context);
                fiber.context.uc_stack.ss_sp = fiber.stack.get();
                fiber.context.uc_stack.ss_size = STACK_BYTES;
                fiber.context.uc_link = nullptr;
                makecontext(&fiber.context, start, 0);
            }
            run_block(block.x);
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

inline void __syncthreads() { kdguard_fibers::yield(kdguard_fibers::AT_BARRIER); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
    using namespace kdguard_fibers;
    exchanged[current] = value;
    yield(READY);
    const float other = exchanged[(current / WARP) * WARP + ((current % WARP) ^ static_cast<unsigned>(mask))];
    yield(READY);
    return other;
}
