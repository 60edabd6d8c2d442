// The memory-bound half of SvdPerturb on a GPU: one pass over the map that reads each value once and writes it once.
//
// A block takes a tile of neighbouring positions with all their channels into shared memory, projects them on the
// singular vectors (and on the keyed rows of the tail), works out the factors, and writes the tile back changed.
// `prepare_rows` makes what all tiles of an image share.
#pragma once

#include "settings.h"

namespace kdguard {

constexpr int AMPLIFY_THREADS = 256;
constexpr int PROJECTIONS_AT_ONCE = 8;

// Positions per block, so that everything fits into the 48 kB of shared memory that need no asking for.
KDGUARD_BOTH int amplify_positions(int channels, const Settings& settings) {
    const int rows = channels + settings.projections();
    return rows <= 128 ? 64 : rows <= 256 ? 32 : 16;
}

KDGUARD_BOTH std::size_t amplify_shared_bytes(int channels, const Settings& settings) {
    const std::size_t positions = amplify_positions(channels, settings), groups = AMPLIFY_THREADS / positions;
    const std::size_t floats = channels * positions + groups * (PROJECTIONS_AT_ONCE + 1) * positions +
                               (settings.projections() + 1) * positions;
    return floats * sizeof(float);
}

// Of one image: the rows on which positions are projected, their offsets for the mean, and the excess gain.
//
// gram [C, C], vectors [C, k], mean [C] or null. Out: rows [projections, C], offsets [projections], excess [1].
// scratch: 4 k * k floats.
template <class Block>
KDGUARD_BOTH void prepare_rows(const Block& block, const Settings& settings, const float* gram, const float* vectors,
                               const float* mean, int channels, float* rows, float* offsets, float* excess,
                               float* scratch) {
    const int rank = settings.rank, keyed = settings.projections() - rank;
    for (int entry = block.thread(); entry < rank * channels; entry += block.threads()) {
        rows[entry] = vectors[entry % channels * rank + entry / channels];
    }
    block.sync();
    for (int entry = block.thread(); entry < keyed * rank; entry += block.threads()) {
        const long long first = static_cast<long long>(entry / rank) * channels;
        const float* vector = rows + entry % rank * channels;
        float sum = 0.0f;
        for (int c = 0; c < channels; ++c) sum += settings.pattern[(first + c) % settings.pattern_size] * vector[c];
        scratch[entry] = sum;
    }
    block.sync();
    for (int entry = block.thread(); entry < keyed * channels; entry += block.threads()) {
        const int key = entry / channels, channel = entry % channels;
        float top = 0.0f;
        for (int t = 0; t < rank; ++t) top += scratch[key * rank + t] * rows[t * channels + channel];
        rows[rank * channels + entry] = settings.pattern[entry % settings.pattern_size] - top;
    }
    block.sync();
    for (int row = block.thread(); row < rank + keyed; row += block.threads()) {
        float sum = 0.0f;
        for (int c = 0; mean != nullptr && c < channels; ++c) sum += rows[row * channels + c] * mean[c];
        offsets[row] = sum;
    }
    float all = 0.0f, top = 0.0f;
    if (settings.adaptive > 0.0f) {
        for (int i = block.thread(); i < channels; i += block.threads()) all += gram[i * channels + i];
        for (int entry = block.thread(); entry < rank * channels; entry += block.threads()) {
            const float* row = rows + entry / channels * channels;
            float image = 0.0f;
            for (int c = 0; c < channels; ++c) image += gram[c * channels + entry % channels] * row[c];
            top += row[entry % channels] * image;
        }
        all = block.sum(all);
        top = block.sum(top);
    }
    if (block.thread() == 0) excess[0] = excess_gain(settings, all, top);
    block.sync();
}

#if defined(__CUDACC__) || defined(KDGUARD_CUDA_ON_CPU)

// One tile of one image. map, output: [C, P]; change: [C, P] floats, or null where nobody restores.
template <class Element>
KDGUARD_DEVICE void amplify_tile(const Settings& settings, const Element* map, const float* rows,
                                 const float* offsets, const float* mean, float excess, float strength,
                                 long long length, int channels, long long start, float* shared, Element* output,
                                 float* change) {
    const int positions = amplify_positions(channels, settings), groups = AMPLIFY_THREADS / positions;
    const int projections = settings.projections(), rank = settings.rank;
    const int place = static_cast<int>(threadIdx.x) % positions, group = static_cast<int>(threadIdx.x) / positions;
    float* tile = shared;                                                   // [C, positions]
    float* partial = tile + channels * positions;                           // [groups, 8 + 1, positions]
    float* values = partial + groups * (PROJECTIONS_AT_ONCE + 1) * positions;  // [projections + 1, positions]
    const bool inside = start + place < length;

    for (int c = group; c < channels; c += groups) {
        tile[c * positions + place] = inside ? static_cast<float>(map[c * length + start + place]) : 0.0f;
    }
    __syncthreads();

    const bool capped = settings.coherence > 0.0f;
    for (int first = 0; first < projections; first += PROJECTIONS_AT_ONCE) {
        const int count = projections - first < PROJECTIONS_AT_ONCE ? projections - first : PROJECTIONS_AT_ONCE;
        const int squared = capped && first == 0;  // only the cap wants the position's size, and one round is enough
        float sums[PROJECTIONS_AT_ONCE] = {}, squares = 0.0f;
        for (int c = group; c < channels; c += groups) {
            const float value = tile[c * positions + place];
            if (squared) {
                const float local = mean == nullptr ? value : value - mean[c];
                squares += local * local;
            }
#pragma unroll
            for (int r = 0; r < PROJECTIONS_AT_ONCE; ++r) {
                if (r < count) sums[r] += rows[(first + r) * channels + c] * value;
            }
        }
        float* own = partial + group * (PROJECTIONS_AT_ONCE + 1) * positions + place;
#pragma unroll
        for (int r = 0; r < PROJECTIONS_AT_ONCE; ++r) own[r * positions] = sums[r];
        if (squared) own[PROJECTIONS_AT_ONCE * positions] = squares;
        __syncthreads();
        for (int entry = threadIdx.x; entry < (count + squared) * positions; entry += AMPLIFY_THREADS) {
            const bool is_size = entry / positions == count;
            const int r = is_size ? PROJECTIONS_AT_ONCE : entry / positions;
            float sum = 0.0f;
            for (int g = 0; g < groups; ++g) {
                sum += partial[(g * (PROJECTIONS_AT_ONCE + 1) + r) * positions + entry % positions];
            }
            values[(is_size ? projections : first + r) * positions + entry % positions] =
                is_size ? sum : sum - offsets[first + r];
        }
        __syncthreads();
    }

    if (group == 0) {
        float size = 0.0f;
        for (int t = 0; t < rank; ++t) {
            float* value = values + t * positions + place;
            const float factor = beyond(settings, excess, start + place, value + rank * positions, rank * positions);
            *value = *value * factor * strength;
            size += *value * *value;
        }
        float kept = 1.0f;
        if (capped) {
            const float norm = sqrtf(size);
            const float allowed = settings.coherence * sqrtf(values[projections * positions + place]);
            const float room = allowed / (norm > TINY ? norm : TINY);
            kept = room < 1.0f || room != room ? room : 1.0f;
        }
        for (int t = 0; t < rank; ++t) {
            values[t * positions + place] = finite_or_zero(values[t * positions + place] * kept);
        }
    }
    __syncthreads();

    for (int c = group; inside && c < channels; c += groups) {
        const float read = tile[c * positions + place];
        float moved = read;
        for (int t = 0; t < rank; ++t) moved += rows[t * channels + c] * values[t * positions + place];
        float happened;
        const long long target = c * length + start + place;
        output[target] = write_element<Element>(read, moved, &happened);
        if (change != nullptr) change[target] = happened;
    }
}

#endif

}  // namespace kdguard
