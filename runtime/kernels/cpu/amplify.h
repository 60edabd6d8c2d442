// The other half of SvdPerturb on a CPU: a map's tile of positions is read once, changed in cache and written once.
#pragma once

#include <cmath>

#include "../settings.h"
#include "lanes.h"
#include "map.h"

namespace kdguard {
namespace KDGUARD_ISA {

constexpr std::int64_t POSITIONS = 1024;  // of a tile: a page of each channel of floats
constexpr int AT_ONCE = 4;                // projections, components and channels that share what they read
constexpr int WIDE = 4;                   // registers beside each other

// What all tiles of an image share. rows [projections, C] start with the singular vectors, transposed.
struct Rows {
    const float* rows;
    const float* offsets;
    const float* mean;
    float excess, strength;
};

// values[r] = sum over the channels of rows[r][c] * tile[c], for `Count` projections at once.
template <int Count>
static void project(const float* tile, const float* rows, std::int64_t channels, float* values) {
    for (std::int64_t p = 0; p < POSITIONS; p += WIDE * LANES) {
        Lanes sums[Count][WIDE];
        for (int r = 0; r < Count; ++r) {
            for (int w = 0; w < WIDE; ++w) sums[r][w] = Lanes{};
        }
        for (std::int64_t c = 0; c < channels; ++c) {
            for (int w = 0; w < WIDE; ++w) {
                const Lanes value = load(tile + c * POSITIONS + p + w * LANES);
                for (int r = 0; r < Count; ++r) sums[r][w] += rows[r * channels + c] * value;
            }
        }
        for (int r = 0; r < Count; ++r) {
            for (int w = 0; w < WIDE; ++w) store(values + r * POSITIONS + p + w * LANES, sums[r][w]);
        }
    }
}

static inline void project_all(const float* tile, const float* rows, std::int64_t channels, int projections,
                               float* values) {
    int first = 0;
    for (; first + AT_ONCE <= projections; first += AT_ONCE) {
        project<AT_ONCE>(tile, rows + first * channels, channels, values + first * POSITIONS);
    }
    for (; first < projections; ++first) {
        project<1>(tile, rows + first * channels, channels, values + first * POSITIONS);
    }
}

// The changes of all components at `count` positions, in place of their values.
static inline void weigh(const Settings& settings, const Rows& shared, const float* tile, std::int64_t channels,
                  std::int64_t start, std::int64_t count, float* values) {
    const int rank = settings.rank;
    for (int r = 0; r < settings.projections(); ++r) {
        for (std::int64_t p = 0; p < POSITIONS; ++p) values[r * POSITIONS + p] -= shared.offsets[r];
    }
    for (int t = 0; t < rank; ++t) {
        float* value = values + t * POSITIONS;
        if (settings.modulation == NO_MODULATION) {
            for (std::int64_t p = 0; p < POSITIONS; ++p) value[p] = value[p] * shared.excess * shared.strength;
            continue;
        }
        for (std::int64_t p = 0; p < count; ++p) {
            const float factor =
                beyond(settings, shared.excess, start + p, value + rank * POSITIONS + p, rank * POSITIONS);
            value[p] = value[p] * factor * shared.strength;
        }
    }
    if (settings.coherence > 0.0f) {
        for (std::int64_t p = 0; p < count; ++p) {
            float size = 0.0f, local = 0.0f;
            for (int t = 0; t < rank; ++t) size += values[t * POSITIONS + p] * values[t * POSITIONS + p];
            for (std::int64_t c = 0; c < channels; ++c) {
                const float value = tile[c * POSITIONS + p] - (shared.mean == nullptr ? 0.0f : shared.mean[c]);
                local += value * value;
            }
            const float room = settings.coherence * sqrtf(local) / (sqrtf(size) > TINY ? sqrtf(size) : TINY);
            if (room >= 1.0f) continue;
            for (int t = 0; t < rank; ++t) values[t * POSITIONS + p] *= room;
        }
    }
    for (std::int64_t entry = 0; entry < rank * POSITIONS; ++entry) values[entry] = finite_or_zero(values[entry]);
}

// to[c] = from[c] + sum of components, for neighbouring channels whose rows lie `apart` floats from each other.
// vectors: [k, C], from the first of these channels on.
template <int Rank, int Channels>
static void add_some(const float* from, std::int64_t from_apart, const float* vectors, std::int64_t channels,
                     const float* values, float* to, std::int64_t to_apart) {
    for (std::int64_t p = 0; p < POSITIONS; p += LANES) {
        Lanes value[Rank];
        for (int t = 0; t < Rank; ++t) value[t] = load(values + t * POSITIONS + p);
        for (int c = 0; c < Channels; ++c) {
            Lanes sum = vectors[c] * value[0];
            for (int t = 1; t < Rank; ++t) sum += vectors[t * channels + c] * value[t];
            const Lanes read = load(from + c * from_apart + p);
            store(to + c * to_apart + p, read + sum);
        }
    }
}

// The same for any rank, four components at a time.
template <int Channels>
static void add_components(const float* from, std::int64_t from_apart, const float* vectors, std::int64_t channels,
                           const float* values, int rank, float* to, std::int64_t to_apart) {
    for (int first = 0; first < rank; first += AT_ONCE) {
        const float* some = vectors + first * channels;
        const float* their = values + first * POSITIONS;
        switch (rank - first) {
            case 1: add_some<1, Channels>(from, from_apart, some, channels, their, to, to_apart); break;
            case 2: add_some<2, Channels>(from, from_apart, some, channels, their, to, to_apart); break;
            case 3: add_some<3, Channels>(from, from_apart, some, channels, their, to, to_apart); break;
            default: add_some<AT_ONCE, Channels>(from, from_apart, some, channels, their, to, to_apart);
        }
        from = to;
        from_apart = to_apart;
    }
}

// Writes up to four channels of a tile, from channel `first` on.
template <class Element>
static void write_channels(const Settings& settings, const Rows& shared, const float* tile, const float* values,
                           std::int64_t channels, std::int64_t first, std::int64_t some, std::int64_t length,
                           std::int64_t start, std::int64_t count, float* moved, Element* output, float* change) {
    Element* to = output + first * length + start;
    const bool straight = sizeof(Element) == sizeof(float) && count == POSITIONS && change == nullptr;
    float* target = straight ? reinterpret_cast<float*>(to) : moved;
    const std::int64_t apart = straight ? length : POSITIONS;
    if (some == AT_ONCE) {
        add_components<AT_ONCE>(tile, POSITIONS, shared.rows + first, channels, values, settings.rank, target, apart);
    } else {
        for (std::int64_t c = 0; c < some; ++c) {
            add_components<1>(tile + c * POSITIONS, 0, shared.rows + first + c, channels, values, settings.rank,
                                 target + c * apart, 0);
        }
    }
    if (straight) return;
    for (std::int64_t c = 0; c < some; ++c) {
        const float* read = tile + c * POSITIONS;
        const float* now = moved + c * POSITIONS;
        Element* row = to + c * length;
        float unused;
        for (std::int64_t p = 0; p < count; ++p) {
            float* by = change == nullptr ? &unused : change + (first + c) * length + start + p;
            row[p] = write_element<Element>(read[p], now[p], by);
        }
    }
}

// Floats that `amplify_tile` works in.
constexpr std::int64_t amplify_workspace(std::int64_t channels, int projections) {
    return (channels + projections + AT_ONCE) * POSITIONS;
}

// Positions `start` on of one image: map and output [C, P]; change [C, P] or null.
template <class Element>
static void amplify_tile(const Settings& settings, const Rows& shared, const Element* map, std::int64_t channels,
                  std::int64_t length, std::int64_t start, Element* output, float* change,
                         float* workspace) {
    const std::int64_t count = min(POSITIONS, length - start);
    float* tile = workspace;
    float* values = tile + channels * POSITIONS;
    float* moved = values + settings.projections() * POSITIONS;
    for (std::int64_t c = 0; c < channels; ++c) {
        const Element* from = map + c * length + start;
        float* row = tile + c * POSITIONS;
        for (std::int64_t p = 0; p < count; ++p) row[p] = static_cast<float>(from[p]);
        for (std::int64_t p = count; p < POSITIONS; ++p) row[p] = 0.0f;
    }
    project_all(tile, shared.rows, channels, settings.projections(), values);
    weigh(settings, shared, tile, channels, start, count, values);
    for (std::int64_t c = 0; c < channels; c += AT_ONCE) {
        const std::int64_t some = min(AT_ONCE, channels - c);
        write_channels(settings, shared, tile + c * POSITIONS, values, channels, c, some, length, start, count, moved,
                       output, change);
    }
}

}  // namespace KDGUARD_ISA
}  // namespace kdguard
