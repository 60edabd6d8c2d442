// What the op's nodes say, whichever provider runs them.
#pragma once

#include "../map_shape.h"
#include "../settings.h"
#include "../top_k_projector.cuh"
#include "operator.h"

namespace kdguard::ort {

template <class Element>
constexpr ElementType TYPE = sizeof(Element) == 4 ? FLOAT : FLOAT16;

// An attribute, or its default where the node does not state it.
template <class Number>
inline Number number(const Api* api, const KernelInfo* info, const char* name, Number fallback) {
    Number value = fallback;
    Status* status = attribute(api, info, name, &value);
    if (status == nullptr) return value;
    release_status(api, status);
    return fallback;
}

inline int whole_number(const Api* api, const KernelInfo* info, const char* name, std::int64_t fallback) {
    return static_cast<int>(number(api, info, name, fallback));
}

inline std::vector<float> numbers(const Api* api, const KernelInfo* info, const char* name) {
    std::size_t size = 0;
    if (Status* status = attributes(api, info, name, nullptr, &size)) {
        release_status(api, status);
        return {0.0f};
    }
    std::vector<float> found(size);
    check(attributes(api, info, name, found.data(), &size));
    return found;
}

inline void refuse_beyond_limits(std::int64_t channels, int rank) {
    if (channels >= 1 && channels <= MAX_CHANNELS && rank >= 1 && rank <= MAX_RANK) return;
    throw std::runtime_error(std::to_string(channels) + " channels and rank " + std::to_string(rank) +
                             " are beyond what the native kernels take");
}

// The attributes of a SvdPerturb node; the defaults are those of SvdPerturbAttributes.
struct PerturbAttributes {
    Settings settings{};  // the pattern's address left out
    std::vector<float> pattern;
    bool shared;

    PerturbAttributes(const Api* api, const KernelInfo* info)
        : pattern(numbers(api, info, "pattern")), shared(whole_number(api, info, "shared", 1) != 0) {
        settings.rank = whole_number(api, info, "rank", 4);
        settings.gain = number(api, info, "gain", 1.0f);
        settings.centred = whole_number(api, info, "centred", 0);
        settings.adaptive = number(api, info, "adaptive", 0.0f);
        settings.modulation = whole_number(api, info, "modulation", NO_MODULATION);
        settings.coherence = number(api, info, "coherence", 0.0f);
        settings.stride = whole_number(api, info, "stride", 1);
        settings.pattern_size = static_cast<long long>(pattern.size());
        if (pattern.empty() || settings.stride < 1) throw std::runtime_error("an empty pattern, or a stride below 1");
    }
};

// Tensors of one run of a SvdPerturb node. strength: where the provider keeps this input, null where it is left out.
template <class Element>
struct PerturbRun {
    MapShape shape;
    const Element* map;
    const float* strength;
    Element* output;
    float* change;  // null where nobody wants it; a single number where it is not shared

    PerturbRun(const PerturbAttributes& attributes, Run& run) {
        const Value* input = run.input(0);
        const std::vector<std::int64_t> sizes = run.sizes(input);
        if (sizes.size() < 3) throw std::runtime_error("a feature map has a batch, channels and one axis more");
        shape = MapShape{sizes[0], sizes[1], sizes[2], 1};
        for (std::size_t axis = 3; axis < sizes.size(); ++axis) shape.run *= sizes[axis];
        const Value* stated = run.input(1);
        if (stated != nullptr && !run.sizes(stated).empty()) throw std::runtime_error("strength is a scalar");
        map = run.data<const Element>(input);
        strength = run.data<const float>(stated);
        output = run.output<Element>(0, sizes);
        change = run.output<float>(1, attributes.shared ? sizes : std::vector<std::int64_t>{1});
        if (!is_empty()) refuse_beyond_limits(shape.channels, attributes.settings.rank);
    }

    bool is_empty() const { return shape.images == 0 || shape.positions() == 0; }
};

// What SvdPerturb, SvdRestore and TopKProjector take and return, for every provider.
template <class Element>
struct SvdPerturbSignature {
    static constexpr const char* NAME = "SvdPerturb";
    static constexpr bool IN_PLACE = false;
    static std::initializer_list<Argument> inputs() {
        static constexpr std::initializer_list<Argument> all = {{TYPE<Element>, REQUIRED}, {FLOAT, OPTIONAL}};
        return all;
    }
    static std::initializer_list<Argument> outputs() { return inputs(); }
};

template <class Element>
struct SvdRestoreSignature {
    static constexpr const char* NAME = "SvdRestore";
    static constexpr bool IN_PLACE = true;
    static std::initializer_list<Argument> inputs() {
        static constexpr std::initializer_list<Argument> all = {{TYPE<Element>, REQUIRED}, {FLOAT, REQUIRED}};
        return all;
    }
    static std::initializer_list<Argument> outputs() {
        static constexpr std::initializer_list<Argument> all = {{TYPE<Element>, REQUIRED}};
        return all;
    }
};

struct TopKProjectorSignature {
    static constexpr const char* NAME = "TopKProjector";
    static constexpr bool IN_PLACE = false;
    static std::initializer_list<Argument> inputs() {
        static constexpr std::initializer_list<Argument> all = {{FLOAT, REQUIRED}};
        return all;
    }
    static std::initializer_list<Argument> outputs() { return inputs(); }
};

// Elements of the map and of the change that SvdRestore gets.
inline std::int64_t restored_count(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& change) {
    if (change != sizes) throw std::runtime_error("the change has not the shape of the map");
    std::int64_t count = 1;
    for (const std::int64_t size : sizes) count *= size;
    return count;
}

inline void refuse_other_grams(const std::vector<std::int64_t>& sizes, int rank) {
    if (sizes.size() != 3 || sizes[1] != sizes[2]) throw std::runtime_error("Gram matrices are [N, C, C]");
    refuse_beyond_limits(sizes[1], rank);
}

}  // namespace kdguard::ort
