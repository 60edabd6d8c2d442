// The attributes of one SvdPerturb node, and the formulas for the factor on a singular component (docs/op.md).
#pragma once

#include "block.cuh"

namespace kdguard {

constexpr int TAIL_GROUPS = 4;
constexpr float TINY = 1e-37f;
constexpr float UNDO_SHARE = 1.0f / 8192.0f;  // what float16 and bfloat16 round away

enum Modulation { NO_MODULATION = 0, PATTERN = 1, TAIL_SIGN = 2 };

struct Settings {
    int rank;
    float gain;
    int centred;
    float adaptive;
    int modulation;
    const float* pattern;
    long long pattern_size;
    float coherence;
    int stride;

    // Keyed projections of a position: its components, and four of its tail for each where they decide the sign.
    KDGUARD_MEMBER int projections() const { return modulation == TAIL_SIGN ? (1 + TAIL_GROUPS) * rank : rank; }
};

// The gain less one; where adaptive, grown by (all energy / energy of the top k) ^ (adaptive / 2).
KDGUARD_BOTH float excess_gain(const Settings& settings, float all_energy, float top_energy) {
    if (settings.adaptive <= 0.0f) return settings.gain - 1.0f;
    const float ratio = all_energy / (top_energy > TINY ? top_energy : TINY);
    const float probe = ratio * 0.0f;
    const float known = probe == probe ? ratio : 0.0f;
    return (settings.gain - 1.0f) * powf(known, 0.5f * settings.adaptive);
}

// The factor on a component, less one, at one position.
//
// tail: the position's keyed projections of the tail for this component, `between` floats apart.
KDGUARD_BOTH float beyond(const Settings& settings, float excess, long long position, const float* tail,
                          std::size_t between) {
    if (settings.modulation == PATTERN) {
        return powf(excess + 1.0f, settings.pattern[position % settings.pattern_size]) - 1.0f;
    }
    if (settings.modulation == TAIL_SIGN) {
        const float product = tail[0] * tail[between];
        const float third = tail[2 * between], fourth = tail[3 * between];
        const float either = third > fourth ? third : fourth;
        return product > 0.0f && either > 0.0f ? -(excess + 1.0f) - 1.0f : excess;
    }
    return excess;
}

// strength as the op takes it: clipped to [0, 1], and 1 where it is left out or NaN.
KDGUARD_BOTH float applied_strength(const float* strength) {
    if (strength == nullptr || !(*strength < 1.0f)) return 1.0f;
    return *strength > 0.0f ? *strength : 0.0f;
}

// 0 for NaN and infinity.
KDGUARD_BOTH float finite_or_zero(float value) {
    const float probe = value * 0.0f;
    return probe == probe ? value : 0.0f;
}

// Rounds `moved` to the element type and says by how much the element `read` really changed.
//
// For 16-bit elements a change that could not be taken back exactly is not made: docs/op.md, SvdRestore.
template <class Element>
KDGUARD_BOTH Element write_element(float read, float moved, float* change) {
    const Element rounded = static_cast<Element>(moved);
    if (sizeof(Element) == 4) {
        *change = finite_or_zero(moved - read);  // an infinity that stays one has not changed
        return rounded;
    }
    const float written = static_cast<float>(rounded);
    const float happened = written - read;
    const float error = fabsf((written - happened) - read);
    *change = error <= UNDO_SHARE * fabsf(read) ? happened : 0.0f;
    return static_cast<Element>(read + *change);
}

}  // namespace kdguard
