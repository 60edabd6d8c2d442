// The custom-op library for onnxruntime: SvdPerturb, SvdRestore and TopKProjector on the CPU, float and float16.
//
// Once it is registered the model's own functions of these names are not used any more, so the library has kernels
// for every type or is not registered at all: runtime/native decides.
#include <mutex>

#include "../cpu/perturb.h"
#include "operator.h"

namespace kdguard::ort {
namespace {

template <class Element>
constexpr ElementType TYPE = sizeof(Element) == 4 ? FLOAT : FLOAT16;

// An attribute, or its default where the node does not state it.
template <class Number>
Number number(const Api* api, const KernelInfo* info, const char* name, Number fallback) {
    Number value = fallback;
    Status* status = attribute(api, info, name, &value);
    if (status == nullptr) return value;
    release_status(api, status);
    return fallback;
}

int whole_number(const Api* api, const KernelInfo* info, const char* name, std::int64_t fallback) {
    return static_cast<int>(number(api, info, name, fallback));
}

std::vector<float> numbers(const Api* api, const KernelInfo* info, const char* name) {
    std::size_t size = 0;
    if (Status* status = attributes(api, info, name, nullptr, &size)) {
        release_status(api, status);
        return {0.0f};
    }
    std::vector<float> found(size);
    check(attributes(api, info, name, found.data(), &size));
    return found;
}

void refuse_beyond_limits(std::int64_t channels, int rank) {
    if (is_within_limits(channels, rank)) return;
    throw std::runtime_error(std::to_string(channels) + " channels and rank " + std::to_string(rank) +
                             " are beyond what the native kernels take");
}

template <class Element>
class SvdPerturb {
public:
    static constexpr const char* NAME = "SvdPerturb";
    static constexpr bool IN_PLACE = false;
    static std::initializer_list<Argument> inputs() {
        static constexpr std::initializer_list<Argument> all = {{TYPE<Element>, REQUIRED}, {FLOAT, OPTIONAL}};
        return all;
    }
    static std::initializer_list<Argument> outputs() { return inputs(); }

    // The defaults are those of SvdPerturbAttributes.
    SvdPerturb(const Api* api, const KernelInfo* info)
        : shared_(whole_number(api, info, "shared", 1) != 0), pattern_(numbers(api, info, "pattern")) {
        settings_.rank = whole_number(api, info, "rank", 4);
        settings_.gain = number(api, info, "gain", 1.0f);
        settings_.centred = whole_number(api, info, "centred", 0);
        settings_.adaptive = number(api, info, "adaptive", 0.0f);
        settings_.modulation = whole_number(api, info, "modulation", NO_MODULATION);
        settings_.coherence = number(api, info, "coherence", 0.0f);
        settings_.stride = whole_number(api, info, "stride", 1);
        if (pattern_.empty() || settings_.stride < 1) throw std::runtime_error("an empty pattern, or a stride below 1");
    }

    void compute(Run& run) const {
        const Value* map = run.input(0);
        const std::vector<std::int64_t> sizes = run.sizes(map);
        if (sizes.size() < 3) throw std::runtime_error("a feature map has a batch, channels and at least one more axis");
        MapShape shape{sizes[0], sizes[1], sizes[2], 1};
        for (std::size_t axis = 3; axis < sizes.size(); ++axis) shape.run *= sizes[axis];
        const Value* stated = run.input(1);
        if (stated != nullptr && !run.sizes(stated).empty()) throw std::runtime_error("strength is a scalar");
        const float* strength = run.data<const float>(stated);
        Settings settings = settings_;
        settings.pattern = pattern_.data();
        settings.pattern_size = static_cast<long long>(pattern_.size());
        auto* output = run.output<Element>(0, sizes);
        auto* change = run.output<float>(1, shared_ ? sizes : std::vector<std::int64_t>{1});
        if (!shared_ && change != nullptr) *change = 0.0f;
        if (shape.images == 0 || shape.positions() == 0) return;
        refuse_beyond_limits(shape.channels, settings.rank);
        perturb(run, settings, shape, applied_strength(strength), run.data<const Element>(map), output, shared_ ? change : nullptr);
    }

private:
    bool shared_;
    std::vector<float> pattern_;
    Settings settings_{};
};

template <class Element>
class SvdRestore {
public:
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

    SvdRestore(const Api*, const KernelInfo*) {}

    void compute(Run& run) const {
        const Value *perturbed = run.input(0), *change = run.input(1);
        const std::vector<std::int64_t> sizes = run.sizes(perturbed);
        if (run.sizes(change) != sizes) throw std::runtime_error("the change has not the shape of the map");
        std::int64_t count = 1;
        for (const std::int64_t size : sizes) count *= size;
        restore(run, count, run.data<const Element>(perturbed), run.data<const float>(change),
                run.output<Element>(0, sizes));
    }
};

class TopKProjector {
public:
    static constexpr const char* NAME = "TopKProjector";
    static constexpr bool IN_PLACE = false;
    static std::initializer_list<Argument> inputs() {
        static constexpr std::initializer_list<Argument> all = {{FLOAT, REQUIRED}};
        return all;
    }
    static std::initializer_list<Argument> outputs() { return inputs(); }

    TopKProjector(const Api* api, const KernelInfo* info) : rank_(whole_number(api, info, "rank", 4)) {}

    void compute(Run& run) const {
        const Value* gram = run.input(0);
        const std::vector<std::int64_t> sizes = run.sizes(gram);
        if (sizes.size() != 3 || sizes[1] != sizes[2]) throw std::runtime_error("Gram matrices are [N, C, C]");
        refuse_beyond_limits(sizes[1], rank_);
        project(run, sizes[0], static_cast<int>(sizes[1]), rank_, run.data<const float>(gram),
                run.output<float>(0, {sizes[0], sizes[1], rank_}));
    }

private:
    int rank_;
};

}  // namespace
}  // namespace kdguard::ort

// Called by `SessionOptions.register_custom_ops_library`.
extern "C" __attribute__((visibility("default"))) kdguard::ort::Status* RegisterCustomOps(
    kdguard::ort::SessionOptions* options, const kdguard::ort::ApiBase* base) {
    using namespace kdguard::ort;
    const Api* api = base->get_api(API_VERSION);
    if (api == nullptr) return create_status(base->get_api(1), FAIL, "kdguard: onnxruntime is older than 1.18");
    static const Operator<SvdPerturb<float>> perturb_float;
    static const Operator<SvdPerturb<_Float16>> perturb_half;
    static const Operator<SvdRestore<float>> restore_float;
    static const Operator<SvdRestore<_Float16>> restore_half;
    static const Operator<TopKProjector> projector;
    static CustomOpDomain* domain = nullptr;  // lives as long as the library, sessions share it
    static std::mutex creating;
    const std::lock_guard<std::mutex> lock(creating);
    if (domain == nullptr) {
        CustomOpDomain* made = nullptr;
        if (Status* status = create_domain(api, "kdguard", &made)) return status;
        for (const CustomOp* op : std::initializer_list<const CustomOp*>{&perturb_float, &perturb_half, &restore_float,
                                                                         &restore_half, &projector}) {
            if (Status* status = add_op(api, made, op)) return status;
        }
        domain = made;
    }
    return add_domain(api, options, domain);
}
