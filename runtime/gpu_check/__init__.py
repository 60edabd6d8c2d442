"""One command for a machine with a GPU: `make gpu-check`, or `python -m kdguard.runtime.gpu_check`.

Builds the kernels for the GPU that is there, compares every path that the installed packages allow with NumPy or with
the CPU, and times them. It writes one JSON file (`report`). A bare Python with NumPy and the CUDA toolkit is enough;
torch, onnxruntime and TensorRT are used where they are installed, and what is left out says why.

`checks` and `timings` hold one file per subject and a table of them.
"""
