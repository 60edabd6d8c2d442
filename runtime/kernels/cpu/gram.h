// The Gram matrix of a feature map: what an ordinary symmetric matrix product costs, with the map read once.
#pragma once

#include <cstring>

#include "../block.cuh"
#include "lanes.h"
#include "map.h"

namespace kdguard {
namespace KDGUARD_ISA {

constexpr std::int64_t PANEL = 512;  // positions copied side by side

// Copies `count` sampled positions of all channels, from the `first` on, into rows of PANEL floats, less the mean.
// Rows that no channel fills stay as they are.
template <class Element>
static void pack(const Element* map, const MapShape& shape, int stride, const float* mean, std::int64_t first,
          std::int64_t count, float* panel) {
    for (std::int64_t c = 0; c < shape.channels; ++c) {
        const Element* channel = map + c * shape.positions();
        const float less = mean == nullptr ? 0.0f : mean[c];
        float* row = panel + c * PANEL;
        if (stride == 1) {
            for (std::int64_t p = 0; p < count; ++p) row[p] = static_cast<float>(channel[first + p]) - less;
        } else {
            for (std::int64_t p = 0; p < count; ++p) {
                row[p] = static_cast<float>(channel[shape.position(first + p, stride)]) - less;
            }
        }
        std::memset(row + count, 0, (PANEL - count) * sizeof(float));
    }
}

// Channels of the panel after this one, which memory hands over while there is arithmetic to do.
template <class Element>
struct Ahead {
    const Element* first;
    std::int64_t channels, apart;

    void fetch(std::int64_t p) const {
        for (std::int64_t c = 0; c < channels; ++c) __builtin_prefetch(first + c * apart + p, 0, 2);
    }
};

// Adds the products of one tile of channels over a panel to its sums.
template <class Element>
static inline void add_tile(const float* first, const float* second, Lanes* sums, const Ahead<Element>& ahead) {
    Lanes local[TILE_ROWS][TILE_COLUMNS];
    for (int i = 0; i < TILE_ROWS; ++i) {
        for (int j = 0; j < TILE_COLUMNS; ++j) local[i][j] = sums[i * TILE_COLUMNS + j];
    }
    for (std::int64_t p = 0; p < PANEL; p += LANES) {
        Lanes right[TILE_COLUMNS];
        for (int j = 0; j < TILE_COLUMNS; ++j) right[j] = load(second + j * PANEL + p);
        for (int i = 0; i < TILE_ROWS; ++i) {
            const Lanes left = load(first + i * PANEL + p);
            for (int j = 0; j < TILE_COLUMNS; ++j) local[i][j] += left * right[j];
        }
        ahead.fetch(p);
    }
    for (int i = 0; i < TILE_ROWS; ++i) {
        for (int j = 0; j < TILE_COLUMNS; ++j) sums[i * TILE_COLUMNS + j] = local[i][j];
    }
}

constexpr std::int64_t tiles_down(std::int64_t channels) { return (channels + TILE_ROWS - 1) / TILE_ROWS; }
constexpr std::int64_t tiles_across(std::int64_t channels) {
    return (tiles_down(channels) * TILE_ROWS + TILE_COLUMNS - 1) / TILE_COLUMNS;
}

// Floats that `gram_piece` works in.
constexpr std::int64_t gram_workspace(std::int64_t channels) {
    return tiles_across(channels) * TILE_COLUMNS * (PANEL + tiles_down(channels) * TILE_ROWS * LANES);
}

// Sums of products over the sampled positions `first` to `last` of one image, the upper triangle of `gram` [C, C]
// and a little below it.
template <class Element>
static void gram_piece(const Element* map, const MapShape& shape, int stride, const float* mean, std::int64_t first,
                       std::int64_t last, float* gram, float* workspace) {
    const std::int64_t channels = shape.channels, down = tiles_down(channels), across = tiles_across(channels);
    float* panel = workspace;
    Lanes* sums = reinterpret_cast<Lanes*>(workspace + across * TILE_COLUMNS * PANEL);
    std::memset(panel + channels * PANEL, 0, (across * TILE_COLUMNS - channels) * PANEL * sizeof(float));
    std::memset(sums, 0, down * TILE_ROWS * across * TILE_COLUMNS * sizeof(Lanes));
    const std::int64_t length = shape.positions();
    std::int64_t tiles = 0;
    for (std::int64_t i = 0; i < down; ++i) tiles += across - i * TILE_ROWS / TILE_COLUMNS;
    for (std::int64_t start = first; start < last; start += PANEL) {
        pack(map, shape, stride, mean, start, min(PANEL, last - start), panel);
        const std::int64_t next = start + PANEL;
        const std::int64_t fetched = stride == 1 && next + PANEL <= length ? channels : 0;
        std::int64_t done = 0;
        for (std::int64_t i = 0; i < down; ++i) {
            for (std::int64_t j = i * TILE_ROWS / TILE_COLUMNS; j < across; ++j, ++done) {
                const std::int64_t from = done * fetched / tiles, to = (done + 1) * fetched / tiles;
                add_tile(panel + i * TILE_ROWS * PANEL, panel + j * TILE_COLUMNS * PANEL,
                         sums + (i * across + j) * TILE_ROWS * TILE_COLUMNS,
                         Ahead<Element>{map + from * length + next, to - from, length});
            }
        }
    }
    for (std::int64_t i = 0; i < channels; ++i) {
        for (std::int64_t j = i; j < channels; ++j) {
            const Lanes* tile =
                sums + (i / TILE_ROWS * across + j / TILE_COLUMNS) * TILE_ROWS * TILE_COLUMNS;
            gram[i * channels + j] = sum(tile[i % TILE_ROWS * TILE_COLUMNS + j % TILE_COLUMNS]);
        }
    }
}

// Mean over the sampled positions of one channel: short sums in float, their sum in double.
template <class Element>
static float channel_mean(const Element* channel, const MapShape& shape, int stride) {
    double total = 0.0;
    std::int64_t rows = 0;
    for (std::int64_t row = 0; row < shape.rows; row += stride, ++rows) {
        const Element* line = channel + row * shape.run;
        for (std::int64_t start = 0; start < shape.run; start += PANEL) {
            float part = 0.0f;
            KDGUARD_SUMS(part)
            for (std::int64_t p = start; p < min(start + PANEL, shape.run); ++p) part += static_cast<float>(line[p]);
            total += part;
        }
    }
    return static_cast<float>(total / static_cast<double>(rows * shape.run));
}

}  // namespace KDGUARD_ISA
}  // namespace kdguard
