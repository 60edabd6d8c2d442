// A panel's products with itself by the matrix units of GPUs from Ampere on (nvcuda::wmma).
//
// 16-bit values multiply exactly there, and sums are float. Floats are split into two numbers of TF32 each, whose three
// larger products are added: what is left out is 2^-22 of the result. Older GPUs, and the CPU that stands in for one in
// tests, take `gram_piece`; `make gpu-check` compares this one with NumPy.
#pragma once

#include "gram.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#include <mma.h>
#endif

namespace kdguard {

constexpr int MMA_SIDE = 16, MMA_TILES = 4, MMA_ALIGNED = 16;

// Whether the matrix units may read a map where it lies: whole tiles of channels, whole lines, no row left out.
template <class Element>
bool gram_fits_mma(const MapShape& shape, int stride, bool centred, const Element* map) {
    return stride == 1 && !centred && shape.channels % MMA_SIDE == 0 && shape.channels <= MMA_TILES * MMA_SIDE &&
           shape.positions() % MMA_ALIGNED == 0 && shape.positions() < (1ll << 31) &&
           reinterpret_cast<std::uintptr_t>(map) % 32 == 0;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

// What a warp reads of 16 channels, in the order of either operand, and how two of them are multiplied.
template <class Element>
struct Operands {
    static constexpr int ALONG = 16;
    static constexpr bool LEFT_LATER = false;
    template <class Use, class Layout>
    using Fragment = nvcuda::wmma::fragment<Use, 16, 16, ALONG, Element, Layout>;
    using Sums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, ALONG, float>;
    using Left = Fragment<nvcuda::wmma::matrix_a, nvcuda::wmma::row_major>;
    using Right = Fragment<nvcuda::wmma::matrix_b, nvcuda::wmma::col_major>;

    template <class Part>
    static KDGUARD_DEVICE void read(Part& part, const Element* from, unsigned line) {
        nvcuda::wmma::load_matrix_sync(part, from, line);
    }
    static KDGUARD_DEVICE void add(Sums& sums, const Left& left, const Right& right) {
        nvcuda::wmma::mma_sync(sums, left, right, sums);
    }
};

template <>
struct Operands<float> {
    static constexpr int ALONG = 8;
    // From the cache, when it is wanted: registers for all of both operands would leave room for half the warps.
    static constexpr bool LEFT_LATER = true;
    template <class Use, class Layout>
    using Fragment = nvcuda::wmma::fragment<Use, 16, 16, ALONG, nvcuda::wmma::precision::tf32, Layout>;
    using Sums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, ALONG, float>;
    template <class Part>
    struct Split {
        Part high, low;
    };
    using Left = Split<Fragment<nvcuda::wmma::matrix_a, nvcuda::wmma::row_major>>;
    using Right = Split<Fragment<nvcuda::wmma::matrix_b, nvcuda::wmma::col_major>>;

    template <class Part>
    static KDGUARD_DEVICE void read(Split<Part>& part, const float* from, unsigned line) {
        nvcuda::wmma::load_matrix_sync(part.high, from, line);
#pragma unroll
        for (int entry = 0; entry < part.high.num_elements; ++entry) {
            const float whole = part.high.x[entry];
            part.high.x[entry] = nvcuda::wmma::__float_to_tf32(whole);
            part.low.x[entry] = nvcuda::wmma::__float_to_tf32(whole - part.high.x[entry]);
        }
    }
    static KDGUARD_DEVICE void add(Sums& sums, const Left& left, const Right& right) {
        nvcuda::wmma::mma_sync(sums, left.low, right.high, sums);
        nvcuda::wmma::mma_sync(sums, left.high, right.low, sums);
        nvcuda::wmma::mma_sync(sums, left.high, right.high, sums);
    }
};

// As `gram_piece` for a panel of up to 64 channels with itself, with the same layout of `partial`.
//
// shared: 64 * 64 floats.
template <class Element>
KDGUARD_DEVICE void gram_piece_mma(const Element* map, const MapShape& shape, long long start, long long end,
                                   float* partial, float* shared) {
    using Unit = Operands<Element>;
    constexpr int PAIRS = MMA_TILES * (MMA_TILES + 1) / 2, WARPS = GRAM_THREADS / WARP, SIDE = MMA_TILES * MMA_SIDE;
    const int warp = static_cast<int>(threadIdx.x) / WARP, tiles = static_cast<int>(shape.channels) / MMA_SIDE;
    const long long length = shape.positions();
    typename Unit::Sums sums[PAIRS];
#pragma unroll
    for (int pair = 0; pair < PAIRS; ++pair) nvcuda::wmma::fill_fragment(sums[pair], 0.0f);

    for (long long along = start + warp * Unit::ALONG; along < end; along += WARPS * Unit::ALONG) {
        typename Unit::Left left[Unit::LEFT_LATER ? 1 : MMA_TILES];
        typename Unit::Right right[MMA_TILES];
#pragma unroll
        for (int tile = 0; tile < MMA_TILES; ++tile) {
            if (tile >= tiles) continue;
            const Element* from = map + tile * MMA_SIDE * length + along;
            if constexpr (!Unit::LEFT_LATER) Unit::read(left[tile], from, static_cast<unsigned>(length));
            Unit::read(right[tile], from, static_cast<unsigned>(length));
        }
#pragma unroll
        for (int i = 0, pair = 0; i < MMA_TILES; ++i) {
            auto& own = left[Unit::LEFT_LATER ? 0 : i];
            if constexpr (Unit::LEFT_LATER) {
                if (i < tiles) Unit::read(own, map + i * MMA_SIDE * length + along, static_cast<unsigned>(length));
            }
#pragma unroll
            for (int j = i; j < MMA_TILES; ++j, ++pair) {
                if (j < tiles) Unit::add(sums[pair], own, right[j]);
            }
        }
    }

    // The warps add their sums up in their order.
    for (int turn = 0; turn < WARPS; ++turn) {
        __syncthreads();
        if (warp != turn) continue;
#pragma unroll
        for (int i = 0, pair = 0; i < MMA_TILES; ++i) {
#pragma unroll
            for (int j = i; j < MMA_TILES; ++j, ++pair) {
                float* place = shared + i * MMA_SIDE * SIDE + j * MMA_SIDE;
                if (turn > 0) {
                    typename Unit::Sums before;
                    nvcuda::wmma::load_matrix_sync(before, place, SIDE, nvcuda::wmma::mem_row_major);
#pragma unroll
                    for (int entry = 0; entry < before.num_elements; ++entry) sums[pair].x[entry] += before.x[entry];
                }
                nvcuda::wmma::store_matrix_sync(place, sums[pair], SIDE, nvcuda::wmma::mem_row_major);
            }
        }
    }
    __syncthreads();
    using Block = GramBlock<true>;
    constexpr int EACH = SIDE / GRAM_LINE;
    for (int index = static_cast<int>(threadIdx.x); index < EACH * EACH * Block::SQUARES; index += GRAM_THREADS) {
        const int entry = index / Block::SQUARES;
        int row = 0, column = 0;
        square_of<true>(index % Block::SQUARES, row, column);
        const int i = row + entry / EACH * GRAM_LINE, j = column + entry % EACH * GRAM_LINE;
        const bool upper = i / MMA_SIDE <= j / MMA_SIDE;
        partial[index] = shared[(upper ? i : j) * SIDE + (upper ? j : i)];
    }
}

#endif

}  // namespace kdguard
