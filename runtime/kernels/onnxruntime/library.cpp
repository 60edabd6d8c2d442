// The custom-op library for onnxruntime: SvdPerturb, SvdRestore and TopKProjector, float and float16, on the CPU, and
// with KDGUARD_CUDA on its CUDA provider too.
//
// Once it is registered the model's own functions of these names are not used any more, so the library has kernels
// for every type or is not registered at all: runtime/native decides.
#include <mutex>

#if !defined(KDGUARD_CUDA_STAND_IN)
#include "cpu_ops.h"
#endif
#if defined(KDGUARD_CUDA) || defined(KDGUARD_CUDA_STAND_IN)
#include "cuda_ops.h"
#endif

namespace kdguard::ort {
namespace {

template <class Kernel>
const CustomOp* op() {
    static const Operator<Kernel> only;
    return &only;
}

template <template <class> class SvdPerturb, template <class> class SvdRestore, class TopKProjector>
std::vector<const CustomOp*> ops() {
    return {op<SvdPerturb<float>>(), op<SvdPerturb<_Float16>>(), op<SvdRestore<float>>(), op<SvdRestore<_Float16>>(),
            op<TopKProjector>()};
}

std::vector<const CustomOp*> all_ops() {
    std::vector<const CustomOp*> all;
#if !defined(KDGUARD_CUDA_STAND_IN)
    for (const CustomOp* each : ops<cpu::SvdPerturb, cpu::SvdRestore, cpu::TopKProjector>()) all.push_back(each);
#endif
#if defined(KDGUARD_CUDA) || defined(KDGUARD_CUDA_STAND_IN)
    for (const CustomOp* each : ops<cuda::SvdPerturb, cuda::SvdRestore, cuda::TopKProjector>()) all.push_back(each);
#endif
    return all;
}

}  // namespace
}  // namespace kdguard::ort

// Called by `SessionOptions.register_custom_ops_library`.
extern "C" __attribute__((visibility("default"))) kdguard::ort::Status* RegisterCustomOps(
    kdguard::ort::SessionOptions* options, const kdguard::ort::ApiBase* base) {
    using namespace kdguard::ort;
    const Api* api = base->get_api(API_VERSION);
    if (api == nullptr) return create_status(base->get_api(1), FAIL, "kdguard: onnxruntime is older than 1.18");
    static CustomOpDomain* domain = nullptr;  // lives as long as the library, sessions share it
    static std::mutex creating;
    const std::lock_guard<std::mutex> lock(creating);
    if (domain == nullptr) {
        CustomOpDomain* made = nullptr;
        if (Status* status = create_domain(api, "kdguard", &made)) return status;
        for (const CustomOp* each : all_ops()) {
            if (Status* status = add_op(api, made, each)) return status;
        }
        domain = made;
    }
    return add_domain(api, options, domain);
}
