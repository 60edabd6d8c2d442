// The Gram matrix of a feature map on a GPU: one pass over the map, an ordinary product of matrices in float.
//
// Channels are cut into panels of 16, 32 or 64, positions into pieces. A block multiplies two panels over one piece: it
// copies a chunk of positions of both into shared memory and adds products up in registers, a square of channels per
// thread. Its sums go into a scratch buffer, and `gram_total` adds the pieces in their order: nothing is atomic, and
// neither the GPU nor the size of the batch decides how the positions are cut, so the bits are the same on every run.
// Only pairs of panels of the upper triangle are multiplied, and of a panel with itself only the upper triangle of
// squares. Up to 64 channels the map is read once; above, each panel once per panel, mostly from the cache.
#pragma once

#include "map_shape.h"

namespace kdguard {

constexpr int GRAM_THREADS = 256;
constexpr int GRAM_LINE = 8;              // squares along a panel
constexpr int GRAM_PIECE = 560;           // positions of a piece are a multiple: whole chunks of either size
constexpr long long GRAM_PIECES = 512;    // of an image at most: two for each of the places that a large GPU has
constexpr long long GRAM_PARTIAL_FLOATS = 4 << 20;  // of an image's pieces together, about
constexpr int MEAN_THREADS = 256;
constexpr long long MEAN_PIECES = 64, MEAN_PIECE = 4096;

// Shared memory that the blocks of a multiprocessor have together: Turing's, and the least of those after it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr std::size_t GRAM_SHARED_OF_ALL = 64 * 1024;
#else
constexpr std::size_t GRAM_SHARED_OF_ALL = 100 * 1024;
#endif

// Channels that a warp loads at a time. With 4 under way beside the sums of 64, ptxas spills for sm_75 and sm_80.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 860
constexpr int GRAM_AHEAD = 2;
#else
constexpr int GRAM_AHEAD = 4;
#endif

// How one block of `gram_piece` is cut: of a panel with itself 36 squares, of two panels 64.
template <bool SAME>
struct GramBlock {
    static constexpr int SQUARES = SAME ? GRAM_LINE * (GRAM_LINE + 1) / 2 : GRAM_LINE * GRAM_LINE;
    static constexpr int SLICES = GRAM_THREADS / SQUARES;  // threads that share a square take turns along a chunk
    static constexpr int CHUNK = SAME ? 112 : 80;          // a multiple of 4 * SLICES, and it fits into 48 kB
    static constexpr int ROW = CHUNK + 4;                  // so that 8 neighbouring channels lie in 32 different banks
    static_assert(CHUNK % (4 * SLICES) == 0 && GRAM_PIECE % CHUNK == 0, "chunks are cut evenly");
};

// Of one image.
struct GramPlan {
    int side, panels;      // channels per panel; panels
    long long count;       // sampled positions
    long long piece;       // positions per piece
    int pieces;
    long long mean_piece;
    int mean_pieces;

    KDGUARD_MEMBER int pairs() const { return panels * (panels + 1) / 2; }
    KDGUARD_MEMBER long long partial_floats() const { return static_cast<long long>(pairs()) * side * side; }
};

KDGUARD_BOTH long long pieces_of(long long count, long long piece) { return (count + piece - 1) / piece; }

KDGUARD_BOTH GramPlan gram_plan(const MapShape& shape, int stride) {
    GramPlan plan{};
    plan.side = shape.channels <= 16 ? 16 : shape.channels <= 32 ? 32 : 64;
    plan.panels = static_cast<int>((shape.channels + plan.side - 1) / plan.side);
    plan.count = shape.sampled(stride);
    const long long room = GRAM_PARTIAL_FLOATS / plan.partial_floats();
    const long long most = room < GRAM_PIECES ? room : GRAM_PIECES;
    plan.piece = pieces_of(pieces_of(plan.count, GRAM_PIECE), most) * GRAM_PIECE;
    plan.pieces = static_cast<int>(pieces_of(plan.count, plan.piece));
    plan.mean_piece = pieces_of(pieces_of(plan.count, MEAN_PIECE), MEAN_PIECES) * MEAN_PIECE;
    plan.mean_pieces = static_cast<int>(pieces_of(plan.count, plan.mean_piece));
    return plan;
}

template <bool SAME>
KDGUARD_BOTH constexpr std::size_t gram_shared_bytes(int side) {
    using Block = GramBlock<SAME>;
    return (SAME ? 1 : 2) * side * Block::ROW * sizeof(float);
}

// Blocks for which a multiprocessor must have registers: two, unless its shared memory holds but one. Since Ampere
// each takes 1 kB more than it asks for.
template <int SIDE, bool SAME>
constexpr int GRAM_BLOCKS = 2 * (gram_shared_bytes<SAME>(SIDE) + 1024) <= GRAM_SHARED_OF_ALL ? 2 : 1;

#if defined(__CUDACC__) || defined(KDGUARD_CUDA_ON_CPU)

// The `index`-th pair (first, second) of the upper triangle of a square of `size`, row by row. With the diagonal.
KDGUARD_DEVICE void upper_pair(int index, int size, int& first, int& second) {
    first = 0;
    for (int row = size; index >= row; --row, ++first) index -= row;
    second = first + index;
}

// Two panels: of the upper triangle's `index`-th pair, counted among those that are the same, or among the others.
template <bool SAME>
KDGUARD_DEVICE void panels_of(int index, int panels, int& first, int& second) {
    if (SAME) {
        first = second = index;
    } else {
        upper_pair(index, panels - 1, first, second);
        ++second;
    }
}

// Which square of a block this is: channels row, row + 8, .. of the first panel, column, column + 8, .. of the second.
template <bool SAME>
KDGUARD_DEVICE void square_of(int index, int& row, int& column) {
    if (SAME) {
        upper_pair(index, GRAM_LINE, row, column);
    } else {
        row = index / GRAM_LINE;
        column = index % GRAM_LINE;
    }
}

// Copies a chunk of one panel into shared memory, less the mean; zeros where there is no channel or no position. A warp
// takes every 8th channel, its threads neighbouring positions.
//
// sources: where this thread's positions lie, `count` of the chunk's exist.
template <class Element, int SIDE, int CHUNK, int ROW, int OWN>
KDGUARD_DEVICE void load_panel(const Element* map, const MapShape& shape, const float* mean, int panel,
                               const long long (&sources)[OWN], int count, float* rows) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll GRAM_AHEAD
    for (int c = warp; c < SIDE; c += GRAM_THREADS / WARP) {
        const int channel = panel * SIDE + c;
        const bool is_there = channel < shape.channels;
        const Element* from = map + channel * shape.positions();
        const float less = mean == nullptr || !is_there ? 0.0f : mean[channel];
#pragma unroll
        for (int own = 0; own < OWN; ++own) {
            const int along = own * WARP + lane;
            const bool inside = is_there && along < count;
            if (along < CHUNK) rows[c * ROW + along] = inside ? static_cast<float>(from[sources[own]]) - less : 0.0f;
        }
    }
}

// sums[i][j] += products of channels first + 8 i and second + 8 j over this slice of a chunk.
template <int EACH, bool SAME>
KDGUARD_DEVICE void add_products(const float* first, const float* second, int slice, float (&sums)[EACH][EACH]) {
    using Block = GramBlock<SAME>;
    for (int four = slice; four < Block::CHUNK / 4; four += Block::SLICES) {
        float left[EACH][4];
#pragma unroll
        for (int i = 0; i < EACH; ++i) load_four(first + i * GRAM_LINE * Block::ROW + 4 * four, left[i]);
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            float right[4];
            load_four(second + j * GRAM_LINE * Block::ROW + 4 * four, right);
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
#pragma unroll
                for (int along = 0; along < 4; ++along) sums[i][j] += left[i][along] * right[along];
            }
        }
    }
}

// Adds the sums of all slices to those of the first, in their order. shared: EACH * EACH * SQUARES floats.
template <int EACH, bool SAME>
KDGUARD_DEVICE void add_slices(int square, int slice, float* shared, float (&sums)[EACH][EACH]) {
    using Block = GramBlock<SAME>;
    for (int turn = 1; turn < Block::SLICES; ++turn) {
        __syncthreads();
#pragma unroll
        for (int entry = 0; entry < EACH * EACH; ++entry) {
            if (slice == turn) shared[entry * Block::SQUARES + square] = sums[entry / EACH][entry % EACH];
        }
        __syncthreads();
#pragma unroll
        for (int entry = 0; entry < EACH * EACH; ++entry) {
            if (slice == 0) sums[entry / EACH][entry % EACH] += shared[entry * Block::SQUARES + square];
        }
    }
}

// Sums of products of two panels over the sampled positions `start` to `end` of one image.
//
// partial: out, SIDE * SIDE floats, entry (i, j) of all squares beside each other. shared: gram_shared_bytes.
template <class Element, int SIDE, bool SAME>
KDGUARD_DEVICE void gram_piece(const Element* map, const MapShape& shape, int stride, const float* mean, int first,
                               int second, long long start, long long end, float* partial, float* shared) {
    using Block = GramBlock<SAME>;
    constexpr int EACH = SIDE / GRAM_LINE, CHUNK = Block::CHUNK, ROW = Block::ROW, OWN = (CHUNK + WARP - 1) / WARP;
    const int thread = static_cast<int>(threadIdx.x), square = thread % Block::SQUARES;
    const int slice = thread / Block::SQUARES;  // of the last threads there may be too few for another slice
    float* left = shared;
    float* right = SAME ? left : left + SIDE * ROW;
    int row = 0, column = 0;
    square_of<SAME>(square, row, column);
    float sums[EACH][EACH] = {};

    for (; start < end; start += CHUNK) {
        const int count = static_cast<int>(end - start < CHUNK ? end - start : CHUNK);
        long long sources[OWN];
#pragma unroll
        for (int own = 0; own < OWN; ++own) sources[own] = shape.position(start + own * WARP + thread % WARP, stride);
        load_panel<Element, SIDE, CHUNK, ROW>(map, shape, mean, first, sources, count, left);
        if (!SAME) load_panel<Element, SIDE, CHUNK, ROW>(map, shape, mean, second, sources, count, right);
        __syncthreads();
        if (slice < Block::SLICES) add_products<EACH, SAME>(left + row * ROW, right + column * ROW, slice, sums);
        __syncthreads();
    }
    add_slices<EACH, SAME>(square, slice, left, sums);
#pragma unroll
    for (int entry = 0; entry < EACH * EACH; ++entry) {
        if (slice == 0) partial[entry * Block::SQUARES + square] = sums[entry / EACH][entry % EACH];
    }
}

// Adds the pieces of one image in their order and writes both triangles of `gram` [C, C], divided by the positions.
//
// partial: [pieces, pairs, SIDE * SIDE], pairs that are the same first. Called by enough threads: one per entry.
template <int SIDE>
KDGUARD_DEVICE void gram_total(const GramPlan& plan, const float* partial, int channels, long long index, float* gram) {
    constexpr int EACH = SIDE / GRAM_LINE;
    if (index >= plan.partial_floats()) return;
    const int pair = static_cast<int>(index / (SIDE * SIDE)), place = static_cast<int>(index % (SIDE * SIDE));
    const bool same = pair < plan.panels;
    const int squares = same ? GramBlock<true>::SQUARES : GramBlock<false>::SQUARES;
    const int entry = place / squares, square = place % squares;
    if (entry >= EACH * EACH) return;
    int first = 0, second = 0, row = 0, column = 0;
    if (same) {
        panels_of<true>(pair, plan.panels, first, second);
        square_of<true>(square, row, column);
    } else {
        panels_of<false>(pair - plan.panels, plan.panels, first, second);
        square_of<false>(square, row, column);
    }
    const int i = first * SIDE + row + entry / EACH * GRAM_LINE, j = second * SIDE + column + entry % EACH * GRAM_LINE;
    if (i >= channels || j >= channels || (same && row == column && i > j)) return;
    float total = 0.0f;
#pragma unroll 8
    for (int piece = 0; piece < plan.pieces; ++piece) total += partial[piece * plan.partial_floats() + index];
    total /= static_cast<float>(plan.count);
    gram[i * channels + j] = gram[j * channels + i] = total;
}

// Sum over the sampled positions `start` to `end` of one channel, in every thread.
template <class Element, class Block>
KDGUARD_DEVICE float channel_sum(const Block& block, const Element* channel, const MapShape& shape, int stride,
                                 long long start, long long end) {
    float own = 0.0f;
    for (long long sampled = start + block.thread(); sampled < end; sampled += block.threads()) {
        own += static_cast<float>(channel[shape.position(sampled, stride)]);
    }
    return block.sum(own);
}

#endif

}  // namespace kdguard
