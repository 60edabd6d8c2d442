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

// Where changed floats go: rows of a buffer, for whoever has more to do with them.
struct Buffer {
    float* rows;
    std::int64_t apart;

    void put(std::int64_t c, std::int64_t p, Lanes, Lanes now) const { store(rows + c * apart + p, now); }
};

// The output itself, and by how much it differs from the map where somebody wants to undo that.
template <bool Past, bool Undone>
struct Output {
    float *rows, *change;
    std::int64_t apart;

    void put(std::int64_t c, std::int64_t p, Lanes read, Lanes now) const {
        write(rows + c * apart + p, now);
        if constexpr (Undone) write(change + c * apart + p, finite_lanes(now - read));
    }

    static void write(float* to, Lanes value) {
        if constexpr (Past) {
            store_past_caches(to, value);
        } else {
            store(to, value);
        }
    }
};

// Puts from[c] + sum of components, for neighbouring channels. vectors: [k, C], from the first of these channels on.
template <int Rank, int Channels, class Target>
static void add_some(const float* from, std::int64_t apart, const float* vectors, std::int64_t channels,
                     const float* values, const Target& target) {
    for (std::int64_t p = 0; p < POSITIONS; p += LANES) {
        Lanes value[Rank];
        for (int t = 0; t < Rank; ++t) value[t] = load(values + t * POSITIONS + p);
        for (int c = 0; c < Channels; ++c) {
            Lanes sum = vectors[c] * value[0];
            for (int t = 1; t < Rank; ++t) sum += vectors[t * channels + c] * value[t];
            const Lanes read = load(from + c * apart + p);
            target.put(c, p, read, read + sum);
        }
    }
}

template <int Channels, class Target>
static void add_up_to_four(const float* from, std::int64_t apart, const float* vectors, std::int64_t channels,
                           const float* values, int rank, const Target& target) {
    switch (rank) {
        case 1: add_some<1, Channels>(from, apart, vectors, channels, values, target); break;
        case 2: add_some<2, Channels>(from, apart, vectors, channels, values, target); break;
        case 3: add_some<3, Channels>(from, apart, vectors, channels, values, target); break;
        default: add_some<AT_ONCE, Channels>(from, apart, vectors, channels, values, target);
    }
}

// The same for any rank, four components at a time.
template <int Channels>
static void add_components(const float* from, const float* vectors, std::int64_t channels, const float* values,
                           int rank, const Buffer& moved) {
    for (int first = 0; first < rank; first += AT_ONCE) {
        add_up_to_four<Channels>(from, POSITIONS, vectors + first * channels, channels, values + first * POSITIONS,
                                 rank - first, moved);
        from = moved.rows;
    }
}

// Up to four channels of a tile whose positions may be fewer, of whatever type.
template <class Element>
static void write_channels(const Settings& settings, const float* vectors, const float* tile, const float* values,
                           std::int64_t channels, std::int64_t some, std::int64_t length, std::int64_t count,
                           float* moved, Element* output, float* change) {
    if (some == AT_ONCE) {
        add_components<AT_ONCE>(tile, vectors, channels, values, settings.rank, Buffer{moved, POSITIONS});
    } else {
        for (std::int64_t c = 0; c < some; ++c) {
            add_components<1>(tile + c * POSITIONS, vectors + c, channels, values, settings.rank,
                              Buffer{moved + c * POSITIONS, POSITIONS});
        }
    }
    for (std::int64_t c = 0; c < some; ++c) {
        const float* read = tile + c * POSITIONS;
        const float* now = moved + c * POSITIONS;
        Element* row = output + c * length;
        float unused;
        for (std::int64_t p = 0; p < count; ++p) {
            row[p] = write_element<Element>(read[p], now[p], change == nullptr ? &unused : change + c * length + p);
        }
    }
}

// Four channels of a whole tile of floats, which need no buffer.
template <bool Past>
static void write_floats(const Settings& settings, const float* vectors, const float* tile, const float* values,
                         std::int64_t channels, std::int64_t length, float* output, float* change) {
    if (change == nullptr) {
        add_up_to_four<AT_ONCE>(tile, POSITIONS, vectors, channels, values, settings.rank,
                                Output<Past, false>{output, nullptr, length});
    } else {
        add_up_to_four<AT_ONCE>(tile, POSITIONS, vectors, channels, values, settings.rank,
                                Output<Past, true>{output, change, length});
    }
}

static inline bool starts_a_line(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 64 == 0; }

// Floats that `amplify_tile` works in.
constexpr std::int64_t amplify_workspace(std::int64_t channels, int projections) {
    return (channels + projections + AT_ONCE) * POSITIONS;
}

// Positions `start` on of one image: map and output [C, P]; change [C, P] or null. past_caches: nobody reads the
// output while caches could still hold it.
template <class Element>
static void amplify_tile(const Settings& settings, const Rows& shared, const Element* map, std::int64_t channels,
                         std::int64_t length, std::int64_t start, Element* output, float* change, bool past_caches,
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
    output += start;
    if (change != nullptr) change += start;
    const bool whole = sizeof(Element) == sizeof(float) && count == POSITIONS && settings.rank <= AT_ONCE;
    past_caches &= whole && starts_a_line(output) && starts_a_line(change) && length % LANES == 0;
    for (std::int64_t c = 0; c < channels; c += AT_ONCE) {
        const std::int64_t some = min(AT_ONCE, channels - c);
        const float* vectors = shared.rows + c;
        const float* read = tile + c * POSITIONS;
        float* by = change == nullptr ? nullptr : change + c * length;
        if (whole && some == AT_ONCE) {
            float* to = reinterpret_cast<float*>(output + c * length);
            (past_caches ? write_floats<true> : write_floats<false>)(settings, vectors, read, values, channels, length,
                                                                     to, by);
        } else {
            write_channels(settings, vectors, read, values, channels, some, length, count, moved, output + c * length,
                           by);
        }
    }
    if (past_caches) finish_stores();
}

}  // namespace KDGUARD_ISA
}  // namespace kdguard
