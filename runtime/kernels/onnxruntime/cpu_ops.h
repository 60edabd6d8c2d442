// The op's kernels for onnxruntime's CPU provider.
#pragma once

#include "../cpu/perturb.h"
#include "attributes.h"

namespace kdguard::ort::cpu {

constexpr const char* PROVIDER_NAME = nullptr;  // which is the CPU's

template <class Element>
class SvdPerturb : public SvdPerturbSignature<Element> {
public:
    static constexpr const char* PROVIDER = PROVIDER_NAME;
    static constexpr int memory_type(std::size_t) { return DEFAULT_MEMORY; }

    SvdPerturb(const Api* api, const KernelInfo* info) : attributes_(api, info) {}

    void compute(Run& run) const {
        const PerturbRun<Element> given(attributes_, run);
        if (!attributes_.shared && given.change != nullptr) *given.change = 0.0f;
        if (given.is_empty()) return;
        Settings settings = attributes_.settings;
        settings.pattern = attributes_.pattern.data();
        perturb(run, settings, given.shape, applied_strength(given.strength), given.map, given.output,
                attributes_.shared ? given.change : nullptr);
    }

private:
    PerturbAttributes attributes_;
};

template <class Element>
class SvdRestore : public SvdRestoreSignature<Element> {
public:
    static constexpr const char* PROVIDER = PROVIDER_NAME;
    static constexpr int memory_type(std::size_t) { return DEFAULT_MEMORY; }

    SvdRestore(const Api*, const KernelInfo*) {}

    void compute(Run& run) const {
        const Value *perturbed = run.input(0), *change = run.input(1);
        const std::vector<std::int64_t> sizes = run.sizes(perturbed);
        restore(run, restored_count(sizes, run.sizes(change)), run.data<const Element>(perturbed),
                run.data<const float>(change), run.output<Element>(0, sizes));
    }
};

class TopKProjector : public TopKProjectorSignature {
public:
    static constexpr const char* PROVIDER = PROVIDER_NAME;
    static constexpr int memory_type(std::size_t) { return DEFAULT_MEMORY; }

    TopKProjector(const Api* api, const KernelInfo* info) : rank_(whole_number(api, info, "rank", 4)) {}

    void compute(Run& run) const {
        const Value* gram = run.input(0);
        const std::vector<std::int64_t> sizes = run.sizes(gram);
        refuse_other_grams(sizes, rank_);
        project(run, sizes[0], static_cast<int>(sizes[1]), rank_, run.data<const float>(gram),
                run.output<float>(0, {sizes[0], sizes[1], rank_}));
    }

private:
    int rank_;
};

}  // namespace kdguard::ort::cpu
