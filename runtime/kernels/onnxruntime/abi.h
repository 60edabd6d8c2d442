// The slice of onnxruntime's stable C ABI that a custom-op library needs, in our own declarations: no wheel brings
// the headers. OrtApi is a table of function pointers that only ever grows, so a slot's number is its identity.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kdguard::ort {

constexpr std::uint32_t API_VERSION = 18;  // 17 brought ParallelFor, 18 GetMayInplace; onnxruntime keeps old versions

struct Status;  // null means success
struct Value;
struct KernelContext;
struct KernelInfo;
struct ShapeInferContext;
struct TensorInfo;
struct CustomOpDomain;
struct SessionOptions;
struct Api;

struct ApiBase {
    const Api* (*get_api)(std::uint32_t version);
    const char* (*get_version)();
};

enum ElementType : int { UNDEFINED = 0, FLOAT = 1, FLOAT16 = 10 };
enum Characteristic : int { REQUIRED = 0, OPTIONAL = 1 };
enum MemoryType : int { CPU_MEMORY = -2, DEFAULT_MEMORY = 0 };  // of a provider's input: OrtMemType
enum ErrorCode : int { FAIL = 1, INVALID_ARGUMENT = 2 };

// OrtCustomOp of API 18, slot by slot.
struct CustomOp {
    std::uint32_t version;
    void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
    const char* (*get_name)(const CustomOp*);
    const char* (*get_provider)(const CustomOp*);
    ElementType (*get_input_type)(const CustomOp*, std::size_t);
    std::size_t (*get_input_count)(const CustomOp*);
    ElementType (*get_output_type)(const CustomOp*, std::size_t);
    std::size_t (*get_output_count)(const CustomOp*);
    void (*compute)(void*, KernelContext*);
    void (*destroy)(void*);
    Characteristic (*get_input_characteristic)(const CustomOp*, std::size_t);
    Characteristic (*get_output_characteristic)(const CustomOp*, std::size_t);
    int (*get_input_memory_type)(const CustomOp*, std::size_t);
    int (*get_variadic_input_min)(const CustomOp*);
    int (*get_variadic_input_homogeneity)(const CustomOp*);
    int (*get_variadic_output_min)(const CustomOp*);
    int (*get_variadic_output_homogeneity)(const CustomOp*);
    Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
    Status* (*compute_v2)(void*, KernelContext*);
    Status* (*infer_shape)(const CustomOp*, ShapeInferContext*);
    int (*get_start_version)(const CustomOp*);
    int (*get_end_version)(const CustomOp*);
    std::size_t (*get_may_inplace)(int**, int**);
    void (*release_may_inplace)(int*, int*);
    std::size_t (*get_alias_map)(int**, int**);
    void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "OrtCustomOp has 26 slots");

template <std::size_t Slot, class Result, class... Arguments>
Result call(const Api* api, Arguments... arguments) {
    const auto function = reinterpret_cast<void* const*>(api)[Slot];
    return reinterpret_cast<Result (*)(Arguments...)>(function)(arguments...);
}

inline Status* create_status(const Api* api, ErrorCode code, const char* message) {
    return call<0, Status*>(api, static_cast<int>(code), message);
}
inline void release_status(const Api* api, Status* status) { call<93, void>(api, status); }

inline Status* create_domain(const Api* api, const char* name, CustomOpDomain** domain) {
    return call<26, Status*>(api, name, domain);
}
inline Status* add_op(const Api* api, CustomOpDomain* domain, const CustomOp* op) {
    return call<27, Status*>(api, domain, op);
}
inline Status* add_domain(const Api* api, SessionOptions* options, CustomOpDomain* domain) {
    return call<28, Status*>(api, options, domain);
}

inline Status* attribute(const Api* api, const KernelInfo* info, const char* name, float* value) {
    return call<85, Status*>(api, info, name, value);
}
inline Status* attribute(const Api* api, const KernelInfo* info, const char* name, std::int64_t* value) {
    return call<86, Status*>(api, info, name, value);
}
// With values null, only the size is filled in.
inline Status* attributes(const Api* api, const KernelInfo* info, const char* name, float* values,
                          std::size_t* size) {
    return call<162, Status*>(api, info, name, values, size);
}

inline Status* input(const Api* api, const KernelContext* context, std::size_t index, const Value** value) {
    return call<90, Status*>(api, context, index, value);
}
inline Status* input_count(const Api* api, const KernelContext* context, std::size_t* count) {
    return call<88, Status*>(api, context, count);
}
inline Status* output_count(const Api* api, const KernelContext* context, std::size_t* count) {
    return call<89, Status*>(api, context, count);
}
// Null where nobody wants this optional output.
inline Status* output(const Api* api, KernelContext* context, std::size_t index, const std::int64_t* sizes,
                      std::size_t rank, Value** value) {
    return call<91, Status*>(api, context, index, sizes, rank, value);
}
inline Status* data(const Api* api, const Value* value, void** address) {
    return call<51, Status*>(api, value, address);
}
inline Status* info_of(const Api* api, const Value* value, TensorInfo** info) {
    return call<65, Status*>(api, value, info);
}
inline void release(const Api* api, TensorInfo* info) { call<99, void>(api, info); }
inline Status* rank_of(const Api* api, const TensorInfo* info, std::size_t* rank) {
    return call<61, Status*>(api, info, rank);
}
inline Status* sizes_of(const Api* api, const TensorInfo* info, std::int64_t* sizes, std::size_t rank) {
    return call<62, Status*>(api, info, sizes, rank);
}
inline Status* gpu_stream(const Api* api, const KernelContext* context, void** stream) {
    return call<193, Status*>(api, context, stream);
}
inline Status* parallel_for(const Api* api, const KernelContext* context, void (*work)(void*, std::size_t),
                            std::size_t total, std::size_t batches, void* argument) {
    return call<274, Status*>(api, context, work, total, batches, argument);
}
}  // namespace kdguard::ort
