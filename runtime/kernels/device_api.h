// The op on a GPU behind plain C names: for onnxruntime's kernels, and for ctypes. Pointers are to device memory unless
// a line says otherwise; everything but memory and events is queued on `stream` and returns at once.
//
// What returns int returns 0, or an error code, of the CUDA runtime's or -1, which kdguard_error_text puts into words.
#pragma once

#include <cstddef>

#include "map_shape.h"
#include "settings.h"

#define KDGUARD_EXPORT extern "C" __attribute__((visibility("default")))

namespace kdguard {
enum MapType : int { FLOAT_MAP = 0, HALF_MAP = 1, BFLOAT16_MAP = 2 };
}

// Whether kernels can run on the current device: 0, or what is missing: a driver, code for this GPU, or the memory pools
// that kdguard_take_scratch takes from.
KDGUARD_EXPORT int kdguard_cuda_obstacle();
KDGUARD_EXPORT const char* kdguard_error_text(int code);

// Bytes that kdguard_svd_perturb and kdguard_gram work in, on any device.
KDGUARD_EXPORT std::size_t kdguard_svd_perturb_scratch(const kdguard::Settings* settings,
                                                       const kdguard::MapShape* shape);
KDGUARD_EXPORT std::size_t kdguard_top_k_projector_scratch(long long images, int channels, int rank);

// SvdPerturb. settings, shape: host memory; settings->pattern: device. strength: one float on the device, or null where
// `stated` is the strength. map, output: elements [N, C, rows, run]; change: floats of that shape, or null.
// scratch: at an address that is a multiple of 256, as allocators give it.
KDGUARD_EXPORT int kdguard_svd_perturb(int element, const kdguard::Settings* settings, const kdguard::MapShape* shape,
                                       const float* strength, float stated, const void* map, void* output,
                                       float* change, void* scratch, void* stream);

// The Gram matrices [N, C, C] alone, of settings->centred and settings->stride.
KDGUARD_EXPORT int kdguard_gram(int element, const kdguard::Settings* settings, const kdguard::MapShape* shape,
                                const void* map, float* gram, void* scratch, void* stream);

// gram [N, C, C] -> vectors [N, C, k].
KDGUARD_EXPORT int kdguard_project(long long images, int channels, int rank, const float* gram, float* vectors,
                                   void* scratch, void* stream);

// SvdRestore of `count` elements; `restored` may be `perturbed`.
KDGUARD_EXPORT int kdguard_svd_restore(int element, long long count, const void* perturbed, const float* change,
                                       void* restored, void* stream);

// Scratch memory from a pool of our own, in the order of the stream: giving it back does not wait.
KDGUARD_EXPORT int kdguard_take_scratch(void** address, std::size_t bytes, void* stream);
KDGUARD_EXPORT int kdguard_give_scratch_back(void* address, void* stream);
KDGUARD_EXPORT int kdguard_set_to_zero(void* address, std::size_t bytes, void* stream);

// For whoever has no other CUDA runtime at hand. Copies to and from host memory are finished when they return.
KDGUARD_EXPORT int kdguard_allocate(void** address, std::size_t bytes);
KDGUARD_EXPORT int kdguard_free(void* address);
KDGUARD_EXPORT int kdguard_copy_to_device(void* to, const void* from, std::size_t bytes);
KDGUARD_EXPORT int kdguard_copy_to_host(void* to, const void* from, std::size_t bytes);
KDGUARD_EXPORT int kdguard_copy_on_device(void* to, const void* from, std::size_t bytes, void* stream);
KDGUARD_EXPORT int kdguard_synchronize();
KDGUARD_EXPORT int kdguard_describe_device(char* text, std::size_t size);  // "name, compute capability 9.0"
KDGUARD_EXPORT int kdguard_create_event(void** event);
KDGUARD_EXPORT int kdguard_destroy_event(void* event);
KDGUARD_EXPORT int kdguard_record_event(void* event, void* stream);
KDGUARD_EXPORT int kdguard_milliseconds_between(void* first, void* second, float* milliseconds);  // waits for both
