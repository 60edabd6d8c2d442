// The op's kernels for onnxruntime's CUDA provider: they queue work on the stream of the run and return.
#pragma once

#include <mutex>

#include "../device_api.h"
#include "attributes.h"

namespace kdguard::ort::cuda {

#if defined(KDGUARD_CUDA_STAND_IN)
constexpr const char* PROVIDER_NAME = nullptr;  // tests run these on the CPU, on kernels that on_cpu.cpp runs there
#else
constexpr const char* PROVIDER_NAME = "CUDAExecutionProvider";
#endif

template <class Element>
constexpr int MAP_TYPE = sizeof(Element) == 4 ? FLOAT_MAP : HALF_MAP;

inline void check_cuda(int code) {
    if (code != 0) throw std::runtime_error(std::string("CUDA: ") + kdguard_error_text(code));
}

// Scratch memory for one run, handed back in the order of its stream.
//
// Not from onnxruntime's allocator: what is given back there while kernels still use it may at once be given to a run
// on another stream, and its call for scratch memory of a stream says nothing about when that may be given back. CUDA's
// own stream-ordered pools are made for this. They do not count towards onnxruntime's `gpu_mem_limit`.
class ScratchMemory {
public:
    ScratchMemory(std::size_t bytes, void* stream) : stream_(stream) {
        check_cuda(kdguard_take_scratch(&address_, bytes, stream));
    }
    ~ScratchMemory() { kdguard_give_scratch_back(address_, stream_); }
    ScratchMemory(const ScratchMemory&) = delete;
    ScratchMemory& operator=(const ScratchMemory&) = delete;

    void* address() const { return address_; }

private:
    void* address_ = nullptr;
    void* stream_;
};

// Numbers that a kernel's runs all read. Copied in the first run, when the session's device is surely the current one.
class OnDevice {
public:
    OnDevice() = default;
    ~OnDevice() { kdguard_free(address_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    const float* of(const std::vector<float>& numbers) {
        std::call_once(copied_, [&] {
            const std::size_t bytes = numbers.size() * sizeof(float);
            if (address_ == nullptr) check_cuda(kdguard_allocate(&address_, bytes));
            check_cuda(kdguard_copy_to_device(address_, numbers.data(), bytes));
        });
        return static_cast<const float*>(address_);
    }

private:
    std::once_flag copied_;
    void* address_ = nullptr;
};

template <class Element>
class SvdPerturb : public SvdPerturbSignature<Element> {
public:
    static constexpr const char* PROVIDER = PROVIDER_NAME;
    // `strength` stays on the CPU, where a constant lies anyway, and is handed to the kernel as a number.
    static constexpr int memory_type(std::size_t input) { return input == 1 ? CPU_MEMORY : DEFAULT_MEMORY; }

    SvdPerturb(const Api* api, const KernelInfo* info) : attributes_(api, info) {}

    void compute(Run& run) {
        const PerturbRun<Element> given(attributes_, run);
        void* const stream = run.stream();
        if (!attributes_.shared && given.change != nullptr) {
            check_cuda(kdguard_set_to_zero(given.change, sizeof(float), stream));
        }
        if (given.is_empty()) return;
        Settings settings = attributes_.settings;
        settings.pattern = settings.modulation == NO_MODULATION ? nullptr : pattern_.of(attributes_.pattern);
        const ScratchMemory scratch(kdguard_svd_perturb_scratch(&settings, &given.shape), stream);
        check_cuda(kdguard_svd_perturb(MAP_TYPE<Element>, &settings, &given.shape, nullptr,
                                       applied_strength(given.strength), given.map, given.output,
                                       attributes_.shared ? given.change : nullptr, scratch.address(), stream));
    }

private:
    PerturbAttributes attributes_;
    OnDevice pattern_;
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
        check_cuda(kdguard_svd_restore(MAP_TYPE<Element>, restored_count(sizes, run.sizes(change)),
                                       run.data<const Element>(perturbed), run.data<const float>(change),
                                       run.output<Element>(0, sizes), run.stream()));
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
        const int channels = static_cast<int>(sizes[1]);
        void* const stream = run.stream();
        const ScratchMemory scratch(kdguard_top_k_projector_scratch(sizes[0], channels, rank_), stream);
        check_cuda(kdguard_project(sizes[0], channels, rank_, run.data<const float>(gram),
                                   run.output<float>(0, {sizes[0], sizes[1], rank_}), scratch.address(), stream));
    }

private:
    int rank_;
};

}  // namespace kdguard::ort::cuda
