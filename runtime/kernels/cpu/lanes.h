// Wide registers in the language of the compiler, so that one source serves every instruction set.
//
// Files that include this one are compiled once per instruction set, each time into its own namespace
// KDGUARD_ISA; `perturb.cpp` picks the best that the processor has. Nothing with a body is shared between the builds,
// the standard library's templates included: the linker keeps one copy of those, which might carry instructions that
// the processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef KDGUARD_ISA
#error "compile with -DKDGUARD_ISA=<name>"
#endif

namespace kdguard {
namespace KDGUARD_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_ROWS = 4, TILE_COLUMNS = 4;  // 32 registers: 16 sums and what feeds them
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_ROWS = 4, TILE_COLUMNS = 2;  // 16 registers
#else
constexpr int LANES = 4, TILE_ROWS = 4, TILE_COLUMNS = 2;
#endif

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

static inline Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
static inline void store(float* to, Lanes value) { *reinterpret_cast<Lanes*>(to) = value; }

// The same for addresses that are multiples of a register's size and will not be read soon: memory is not read first,
// and what the caches hold stays there. `finish_stores` before other threads may read.
#if defined(__AVX512F__)
static inline void store_past_caches(float* to, Lanes value) { __builtin_ia32_movntps512(to, value); }
#elif defined(__AVX__)
static inline void store_past_caches(float* to, Lanes value) { __builtin_ia32_movntps256(to, value); }
#elif defined(__SSE__)
static inline void store_past_caches(float* to, Lanes value) { __builtin_ia32_movntps(to, value); }
#else
static inline void store_past_caches(float* to, Lanes value) { store(to, value); }
#endif

static inline void finish_stores() {
#if defined(__SSE__)
    __builtin_ia32_sfence();
#endif
}

static inline Lanes finite_lanes(Lanes value) {
    const Lanes probe = value * 0.0f;
    return probe == probe ? value : Lanes{};
}

// By halves: one lane after the other would wait for each sum.
static inline float sum(Lanes value) {
    typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    float lanes[16] = {};
    store(lanes, value);
    const Eight eight = *reinterpret_cast<const Eight*>(lanes) + *reinterpret_cast<const Eight*>(lanes + 8);
    const Four four = *reinterpret_cast<const Four*>(&eight) + *(reinterpret_cast<const Four*>(&eight) + 1);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

}  // namespace KDGUARD_ISA
}  // namespace kdguard
