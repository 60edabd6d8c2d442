// `amplify_tile` for maps of few channels and few components, which most are: no shared tile and no waiting for each
// other.
//
// A thread reads all channels of two neighbouring positions at once, into registers, projects them, works out the
// factors, and writes them back changed. So many reads are under way at the same time, and shared memory holds the
// singular vectors only.
#pragma once

#include "settings.h"

namespace kdguard {

constexpr int HELD_CHANNELS = 64, HELD_RANK = 4, HELD_THREADS = 128;

template <class Element>
struct alignas(2 * sizeof(Element)) TwoOf {
    Element value[2];
};

// Whether this kernel takes a map: its tail must not be projected, and pairs must lie where pairs may be read.
template <class Element>
bool amplifies_held(const Settings& settings, int channels, long long length, const Element* map, const Element* output,
                    const float* change) {
    const auto misplaced = [](const void* address, std::size_t bytes) {
        return reinterpret_cast<std::uintptr_t>(address) % bytes != 0;
    };
    return channels <= HELD_CHANNELS && settings.rank <= HELD_RANK && settings.projections() == settings.rank &&
           length % 2 == 0 && !misplaced(map, sizeof(TwoOf<Element>)) && !misplaced(output, sizeof(TwoOf<Element>)) &&
           !misplaced(change, sizeof(TwoOf<float>));
}

#if defined(__CUDACC__) || defined(KDGUARD_CUDA_ON_CPU)

// The change of each component at one position, in place of its value. squares: of the position's channels.
KDGUARD_DEVICE void weigh_held(const Settings& settings, const float* offsets, float excess, float strength,
                               long long position, float squares, float (&values)[HELD_RANK]) {
    float size = 0.0f;
#pragma unroll
    for (int t = 0; t < HELD_RANK; ++t) {
        if (t < settings.rank) {
            const float factor = beyond(settings, excess, position, nullptr, 0);
            values[t] = (values[t] - offsets[t]) * factor * strength;
            size += values[t] * values[t];
        }
    }
    float kept = 1.0f;
    if (settings.coherence > 0.0f) {
        const float norm = sqrtf(size), allowed = settings.coherence * sqrtf(squares);
        const float room = allowed / (norm > TINY ? norm : TINY);
        kept = room < 1.0f || room != room ? room : 1.0f;
    }
#pragma unroll
    for (int t = 0; t < HELD_RANK; ++t) values[t] = t < settings.rank ? finite_or_zero(values[t] * kept) : 0.0f;
}

// The `pair`-th two positions of one image. map, output: [C, P]; change: [C, P] floats, or null where nobody restores.
// shared: HELD_RANK * CHANNELS floats.
template <class Element, int CHANNELS>
KDGUARD_DEVICE void amplify_held(const Settings& settings, const Element* map, const float* rows, const float* offsets,
                                 const float* mean, float excess, float strength, long long length, int channels,
                                 long long pair, float* shared, Element* output, float* change) {
    for (int entry = static_cast<int>(threadIdx.x); entry < HELD_RANK * CHANNELS; entry += HELD_THREADS) {
        const int c = entry / HELD_RANK, t = entry % HELD_RANK;
        shared[entry] = c < channels && t < settings.rank ? rows[t * channels + c] : 0.0f;
    }
    __syncthreads();
    const long long start = 2 * pair;
    if (start >= length) return;

    TwoOf<Element> held[CHANNELS];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        if (c < channels) held[c] = *reinterpret_cast<const TwoOf<Element>*>(map + c * length + start);
    }
    float values[2][HELD_RANK] = {}, squares[2] = {};
    const bool capped = settings.coherence > 0.0f;
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        if (c >= channels) continue;
        float row[HELD_RANK];
        load_four(shared + HELD_RANK * c, row);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const float value = static_cast<float>(held[c].value[side]);
#pragma unroll
            for (int t = 0; t < HELD_RANK; ++t) values[side][t] += row[t] * value;
            if (capped) {
                const float local = mean == nullptr ? value : value - mean[c];
                squares[side] += local * local;
            }
        }
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
        weigh_held(settings, offsets, excess, strength, start + side, squares[side], values[side]);
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
        if (c >= channels) continue;
        float row[HELD_RANK];
        load_four(shared + HELD_RANK * c, row);
        TwoOf<Element> written;
        TwoOf<float> happened;
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const float read = static_cast<float>(held[c].value[side]);
            float moved = read;
#pragma unroll
            for (int t = 0; t < HELD_RANK; ++t) moved += row[t] * values[side][t];
            written.value[side] = write_element<Element>(read, moved, &happened.value[side]);
        }
        *reinterpret_cast<TwoOf<Element>*>(output + c * length + start) = written;
        if (change != nullptr) *reinterpret_cast<TwoOf<float>*>(change + c * length + start) = happened;
    }
}

#endif

}  // namespace kdguard
