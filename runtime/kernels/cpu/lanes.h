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

static inline float sum(Lanes value) {
    float total = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) total += value[lane];
    return total;
}

}  // namespace KDGUARD_ISA
}  // namespace kdguard
