// What an operator of ours has to say, and how onnxruntime's callbacks are made of it.
#pragma once

#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cpu/map.h"
#include "abi.h"

namespace kdguard::ort {

// An API call that failed. `status` is handed back to onnxruntime, which says what was wrong.
struct Failure {
    Status* status;
};

inline void check(Status* status) {
    if (status != nullptr) throw Failure{status};
}

struct Argument {
    ElementType type;
    Characteristic characteristic;
};

// One run of a node: its tensors, and onnxruntime's own threads.
class Run final : public Parallel {
public:
    Run(const Api* api, KernelContext* context) : api_(api), context_(context) {}

    // Null where an optional input was left out.
    const Value* input(std::size_t index) const {
        std::size_t count = 0;
        check(input_count(api_, context_, &count));
        const Value* value = nullptr;
        if (index < count) check(ort::input(api_, context_, index, &value));
        return value;
    }

    std::vector<std::int64_t> sizes(const Value* value) const {
        TensorInfo* info = nullptr;
        check(info_of(api_, value, &info));
        std::size_t rank = 0;
        Status* status = rank_of(api_, info, &rank);
        std::vector<std::int64_t> found(rank);
        if (status == nullptr) status = sizes_of(api_, info, found.data(), rank);
        release(api_, info);
        check(status);
        return found;
    }

    template <class Element>
    Element* data(const Value* value) const {
        void* address = nullptr;
        if (value != nullptr) check(ort::data(api_, value, &address));
        return static_cast<Element*>(address);
    }

    // Null where nobody wants this optional output.
    template <class Element>
    Element* output(std::size_t index, const std::vector<std::int64_t>& sizes) {
        std::size_t count = 0;
        check(output_count(api_, context_, &count));
        Value* value = nullptr;
        if (index < count) check(ort::output(api_, context_, index, sizes.data(), sizes.size(), &value));
        return data<Element>(value);
    }

    // What a CUDA provider's kernels are to queue their work on; null on the CPU.
    void* stream() const {
        void* found = nullptr;
        check(gpu_stream(api_, context_, &found));
        return found;
    }

    void run(std::size_t count, void (*work)(void*, std::size_t), void* argument) const override {
        if (count == 1) return work(argument, 0);
        if (count > 1) check(parallel_for(api_, context_, work, count, 0, argument));
    }

private:
    const Api* api_;
    KernelContext* context_;
};

// Fills in the callbacks for `Kernel`, which brings its name, provider, inputs, where each input's memory is to lie,
// outputs, a constructor from attributes and `compute(Run&)`. Input 0 and output 0 have the same shape and may share
// memory where `Kernel::IN_PLACE` says so.
template <class Kernel>
struct Operator : CustomOp {
    struct Held {
        const Api* api;
        Kernel kernel;

        Held(const Api* given, const KernelInfo* info) : api(given), kernel(given, info) {}
    };

    Operator() : CustomOp{} {
        version = API_VERSION;
        get_name = [](const CustomOp*) { return Kernel::NAME; };
        get_provider = [](const CustomOp*) { return static_cast<const char*>(Kernel::PROVIDER); };
        get_input_count = [](const CustomOp*) { return Kernel::inputs().size(); };
        get_output_count = [](const CustomOp*) { return Kernel::outputs().size(); };
        get_input_type = [](const CustomOp*, std::size_t i) { return Kernel::inputs().begin()[i].type; };
        get_output_type = [](const CustomOp*, std::size_t i) { return Kernel::outputs().begin()[i].type; };
        get_input_characteristic = [](const CustomOp*, std::size_t i) {
            return Kernel::inputs().begin()[i].characteristic;
        };
        get_output_characteristic = [](const CustomOp*, std::size_t i) {
            return Kernel::outputs().begin()[i].characteristic;
        };
        get_input_memory_type = [](const CustomOp*, std::size_t i) { return Kernel::memory_type(i); };
        get_variadic_input_min = get_variadic_output_min = [](const CustomOp*) { return 0; };
        get_variadic_input_homogeneity = get_variadic_output_homogeneity = [](const CustomOp*) { return 0; };
        get_start_version = get_end_version = [](const CustomOp*) { return 1; };
        destroy = [](void* held) { delete static_cast<Held*>(held); };
        create_kernel_v2 = [](const CustomOp*, const Api* api, const KernelInfo* info, void** held) {
            return guarded(api, [&] { *held = new Held(api, info); });
        };
        compute_v2 = [](void* held, KernelContext* context) {
            auto& own = *static_cast<Held*>(held);
            return guarded(own.api, [&] {
                Run run(own.api, context);
                own.kernel.compute(run);
            });
        };
        get_may_inplace = [](int** inputs, int** outputs) -> std::size_t {
            if (!Kernel::IN_PLACE) return 0;
            *inputs = static_cast<int*>(std::calloc(1, sizeof(int)));
            *outputs = static_cast<int*>(std::calloc(1, sizeof(int)));
            return *inputs != nullptr && *outputs != nullptr;
        };
        release_may_inplace = [](int* inputs, int* outputs) {
            std::free(inputs);
            std::free(outputs);
        };
        get_alias_map = [](int**, int**) -> std::size_t { return 0; };
        release_alias_map = [](int*, int*) {};
    }

private:
    // No exception may reach onnxruntime's C interface.
    template <class Work>
    static Status* guarded(const Api* api, Work work) {
        try {
            work();
            return nullptr;
        } catch (const Failure& failure) {
            return failure.status;
        } catch (const std::exception& error) {
            return create_status(api, FAIL, (std::string("kdguard: ") + Kernel::NAME + ": " + error.what()).c_str());
        }
    }
};

}  // namespace kdguard::ort
