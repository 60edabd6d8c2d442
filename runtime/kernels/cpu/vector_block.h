// The projector's thread on a CPU: the loops that take the time, in wide registers.
#pragma once

#include "../top_k_projector.cuh"
#include "lanes.h"

namespace kdguard {
namespace KDGUARD_ISA {

struct VectorBlock : SerialBlock {};

constexpr int SIDE = 2;  // registers beside each other in a tile of `square`

// target = factor * source * source for a symmetric source, the upper triangle tile by tile, then mirrored.
static void square(const VectorBlock&, const float* source, float* target, int row, float factor) {
    for (int i = 0; i < row; i += TILE) {
        for (int j = i / (SIDE * LANES) * (SIDE * LANES); j < row; j += SIDE * LANES) {
            const int count = row - j < SIDE * LANES ? 1 : SIDE;
            Lanes sums[TILE][SIDE];
            for (int r = 0; r < TILE; ++r) {
                for (int w = 0; w < SIDE; ++w) sums[r][w] = Lanes{};
            }
            for (int inner = 0; inner < row; ++inner) {
                const float* line = source + inner * row;
                Lanes right[SIDE];
                for (int w = 0; w < SIDE; ++w) right[w] = load(line + j + (w < count ? w : 0) * LANES);
                for (int r = 0; r < TILE; ++r) {
                    for (int w = 0; w < SIDE; ++w) sums[r][w] += line[i + r] * right[w];
                }
            }
            for (int r = 0; r < TILE; ++r) {
                for (int w = 0; w < count; ++w) store(target + (i + r) * row + j + w * LANES, sums[r][w] * factor);
            }
        }
    }
    for (int i = 0; i < row; ++i) {
        for (int j = 0; j < i; ++j) target[i * row + j] = target[j * row + i];
    }
}

static void times_vector(const VectorBlock&, const float* matrix, const float* vector, float* target, int row) {
    for (int i = 0; i < row; i += LANES) {
        Lanes sum = {};
        for (int j = 0; j < row; ++j) sum += vector[j] * load(matrix + j * row + i);
        store(target + i, sum);
    }
}

}  // namespace KDGUARD_ISA
}  // namespace kdguard
