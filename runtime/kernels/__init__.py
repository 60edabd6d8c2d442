"""The op's native kernels: sources, and `build`, which makes libraries of them.

`top_k_projector.cuh` and `amplify.cuh` are CUDA kernels whose source also runs on a CPU: thread by thread for tests
(`cuda_on_cpu.h`), and as one thread in the library for onnxruntime (`cpu/`, `onnxruntime/`).
"""
