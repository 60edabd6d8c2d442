// Feature maps as kernels see them.
#pragma once

#include <cstdint>

#include "block.cuh"

namespace kdguard {

// X [N, C, rows, run]: `rows` is the first spatial axis, whose every stride-th row is looked at, `run` all others.
struct MapShape {
    std::int64_t images, channels, rows, run;

    KDGUARD_MEMBER std::int64_t positions() const { return rows * run; }
    KDGUARD_MEMBER std::int64_t sampled(int stride) const { return (rows + stride - 1) / stride * run; }

    // Where the `sampled`-th position that is looked at lies in the map.
    KDGUARD_MEMBER std::int64_t position(std::int64_t sampled, int stride) const {
        return stride == 1 ? sampled : sampled + sampled / run * (stride - 1) * run;
    }
};

}  // namespace kdguard
