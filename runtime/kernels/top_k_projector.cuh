// TopKProjector: the k leading eigenvectors of a symmetric positive semidefinite matrix, one block per image.
//
// The method of graph_passes/op/projector.py, which says why it works, with two differences that save time: a power
// whose energy lies in one direction is not squared further, so that maps with clear gaps need 3 to 6 of the 15
// squarings; and vectors that were found are taken out of G by a correction of rank 2 instead of two products.
//
// Matrices have rows of `padded(C)` floats, the padding zero, so that neither tiles nor wide registers need edges.
#pragma once

#include "block.cuh"

namespace kdguard {

constexpr int MAX_CHANNELS = 512;
constexpr int MAX_RANK = 16;
constexpr int SQUARINGS = 15;
constexpr int PROJECTOR_THREADS = 512;  // of a block at most: it keeps many registers
constexpr int TILE = 4, PADDING = 16;
constexpr float STEP = 2.4f;         // radians between the entries of the fixed vector, as in the function
constexpr float GENUINE = 0.5f;      // share of a vector outside of those found before that tells it from noise
constexpr float ONE_DIRECTION = 1.0f - 1e-5f;  // squared norm of a power of trace 1 that is a projector, nearly
constexpr float LARGEST_FLOAT = 3.4028235e38f, SMALLEST_NORMAL = 1.1754944e-38f;
constexpr float FAINT = 1e-16f;  // squared norm of a rest, beside a largest entry of 1, that is scaled up before use

KDGUARD_BOTH int padded(int channels) { return (channels + PADDING - 1) / PADDING * PADDING; }

// Floats that `top_k_projector` works in: two matrices, and k + 2 pairs of vectors.
KDGUARD_BOTH std::size_t projector_workspace(int channels, int rank) {
    const std::size_t row = padded(channels);
    return 2 * row * row + 2 * static_cast<std::size_t>(rank + 1) * row;
}

// target = factor * source * source for a symmetric source: tiles of the upper triangle, mirrored.
//
// Tile rows a and T - 1 - a are counted as one row of T + 1 tiles, so that neighbouring threads have neighbouring
// tiles and none is idle.
template <class Block>
KDGUARD_BOTH void square(const Block& block, const float* source, float* target, int row, float factor) {
    const int tiles = row / TILE;
    for (int tile = block.thread(); tile < tiles * (tiles + 1) / 2; tile += block.threads()) {
        const int folded = tile / (tiles + 1), along = tile % (tiles + 1);
        const bool upper = along < tiles - folded;
        const int first = TILE * (upper ? folded : tiles - 1 - folded);
        const int second = first + TILE * (upper ? along : along - (tiles - folded));
        float products[TILE][TILE] = {};
        for (int inner = 0; inner < row; ++inner) {
            float left[TILE], right[TILE];
            load_four(source + inner * row + first, left);
            load_four(source + inner * row + second, right);
            for (int i = 0; i < TILE; ++i) {
                for (int j = 0; j < TILE; ++j) products[i][j] += left[i] * right[j];
            }
        }
        for (int i = 0; i < TILE; ++i) {
            for (int j = 0; j < TILE; ++j) {
                const float product = factor * products[i][j];
                target[(first + i) * row + second + j] = product;
                target[(second + j) * row + first + i] = product;
            }
        }
    }
}

// target = matrix * vector for a symmetric matrix, whose columns are read so that neighbours read neighbours.
template <class Block>
KDGUARD_BOTH void times_vector(const Block& block, const float* matrix, const float* vector, float* target, int row) {
    for (int i = block.thread(); i < row; i += block.threads()) {
        float sum = 0.0f;
        for (int j = 0; j < row; ++j) sum += matrix[j * row + i] * vector[j];
        target[i] = sum;
    }
    block.sync();
}

template <class Block>
KDGUARD_BOTH float dot(const Block& block, const float* a, const float* b, int length) {
    float own = 0.0f;
    KDGUARD_SUMS(own)
    for (int i = block.thread(); i < length; i += block.threads()) own += a[i] * b[i];
    return block.sum(own);
}

// Divides a matrix by its largest entry, where it has one that can be divided by.
template <class Block>
KDGUARD_BOTH void scale_to_one(const Block& block, float* matrix, int length) {
    float largest = 0.0f;
    KDGUARD_LARGEST(largest)
    for (int i = block.thread(); i < length; i += block.threads()) largest = Larger()(fabsf(matrix[i]), largest);
    largest = block.largest(largest);
    if (largest < SMALLEST_NORMAL) return;
    for (int i = block.thread(); i < length; i += block.threads()) matrix[i] /= largest;
    block.sync();
}

// An entry of the Gram matrix as the op wants it: 0 where it is NaN, so that a channel with a NaN is left out.
KDGUARD_BOTH float known(float entry) { return entry == entry ? entry : 0.0f; }

// Finds the k leading eigenvectors of one image's Gram matrix; columns for which there is nothing left are zero.
//
// gram: [C, C], any scale. vectors: out, [C, k]. workspace: projector_workspace(C, k) floats. A matrix with an
// infinity, or without a positive entry, has no vectors at all: the op is then the identity.
template <class Block>
KDGUARD_BOTH void top_k_projector(const Block& block, const float* gram, float* vectors, float* workspace,
                                  int channels, int rank) {
    const int row = padded(channels);
    float* power = workspace;
    float* other = power + row * row;
    float* found = other + row * row;       // [k, row]
    float* images = found + rank * row;     // [k, row]: what takes the vectors out of G, see below
    float* once = images + rank * row;
    float* candidate = once + row;

    float largest = 0.0f;
    KDGUARD_LARGEST(largest)
    for (int entry = block.thread(); entry < channels * channels; entry += block.threads()) {
        largest = Larger()(known(gram[entry]), largest);
    }
    largest = block.largest(largest);
    const bool usable = largest > 0.0f && largest <= LARGEST_FLOAT;

    int count = 0;
    for (int turn = 0; turn < rank; ++turn) {
        // With R = I - U U^T the matrix R G R is G - U B^T - B U^T for B = G U - U (U^T G U) / 2; below, B holds
        // the products of different vectors once and not twice by half, which adds up to the same.
        for (int i = block.team(); i < row; i += block.teams()) {
            float* line = power + i * row;
            for (int j = block.member(); j < row; j += block.members()) {
                line[j] = usable && i < channels && j < channels ? known(gram[i * channels + j]) / largest : 0.0f;
            }
            for (int t = 0; t < count; ++t) {
                const float* const vector = found + t * row;
                const float* const image = images + t * row;
                const float own = vector[i], its = image[i];
                for (int j = block.member(); j < row; j += block.members()) line[j] -= own * image[j] + its * vector[j];
            }
        }
        block.sync();
        float energy = dot(block, power, power, row * row);
        if (energy < FAINT) {
            // Its square would leave the range of floats at eigenvalues near 1e-20 of the largest.
            scale_to_one(block, power, row * row);
            energy = dot(block, power, power, row * row);
        }
        bool genuine = energy > 0.0f && energy <= LARGEST_FLOAT;

        for (int turns = 0; genuine && turns < SQUARINGS; ++turns) {
            square(block, power, other, row, 1.0f / energy);  // the trace becomes 1
            float* const swapped = power;
            power = other;
            other = swapped;
            block.sync();
            energy = dot(block, power, power, row * row);
            if (energy >= ONE_DIRECTION) break;
        }

        if (genuine) {
            for (int i = block.thread(); i < row; i += block.threads()) {
                candidate[i] = i < channels ? cosf(STEP * static_cast<float>(i)) : 0.0f;
            }
            block.sync();
            for (int repeat = 0; repeat < 2; ++repeat) {
                times_vector(block, power, candidate, once, row);
                const float norm = sqrtf(dot(block, once, once, row));
                for (int i = block.thread(); i < row; i += block.threads()) candidate[i] = once[i] / norm;
                block.sync();
            }
            for (int t = 0; t < count; ++t) {
                const float overlap = dot(block, candidate, found + t * row, row);
                for (int i = block.thread(); i < row; i += block.threads()) {
                    candidate[i] -= overlap * found[t * row + i];
                }
                block.sync();
            }
            const float inside = sqrtf(dot(block, candidate, candidate, row));
            genuine = inside > GENUINE;  // false for NaN too
            if (genuine) {
                float* vector = found + count * row;
                float* image = images + count * row;
                for (int i = block.thread(); i < row; i += block.threads()) vector[i] = candidate[i] / inside;
                block.sync();
                for (int i = block.thread(); i < row; i += block.threads()) {
                    float sum = 0.0f;
                    KDGUARD_SUMS(sum)
                    for (int j = 0; j < channels; ++j) {
                        sum += i < channels ? known(gram[i * channels + j]) / largest * vector[j] : 0.0f;
                    }
                    image[i] = sum;
                }
                block.sync();
                for (int t = 0; t <= count; ++t) {
                    const float product = dot(block, found + t * row, image, row);
                    const float part = t < count ? product : 0.5f * product;
                    // image changes only after all products are known: of t < count it needs the plain G u
                    if (block.thread() == 0) once[t] = part;
                }
                block.sync();
                for (int i = block.thread(); i < row; i += block.threads()) {
                    for (int t = 0; t <= count; ++t) image[i] -= once[t] * found[t * row + i];
                }
                block.sync();
            }
        }
        if (!genuine) break;  // and whoever looked again would find the same nothing
        ++count;
    }
    for (int entry = block.thread(); entry < channels * rank; entry += block.threads()) {
        const int i = entry / rank, t = entry % rank;
        vectors[entry] = t < count ? found[t * row + i] : 0.0f;
    }
    block.sync();
}

}  // namespace kdguard
