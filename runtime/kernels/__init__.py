"""The op's native kernels: sources, and `build`, which makes libraries of them.

`gram.cuh`, `top_k_projector.cuh` and `amplify.cuh` are CUDA kernels whose source also runs on a CPU: thread by thread
for tests (`cuda_on_cpu.h`), the projector as one thread in the library for onnxruntime too (`cpu/`, `onnxruntime/`).
`device_library` calls the op on a GPU from Python.
"""
