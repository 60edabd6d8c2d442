"""The discrete Fourier transform, which ONNX writes with real and imaginary part on the last axis."""

from __future__ import annotations

import torch
from torch import Tensor

from kdguard.runtime.torch_graph.node import Node, Operator, integers


def _dft(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """[..., 1] (real) or [..., 2] (complex) to [..., 2]; one-sided inverse to [..., 1].

    The axis is an attribute, 1 by default, in opset 17, and an input, -2 by default, from 20 on.
    """
    along = integers(axis)[0] if axis is not None else node.get("axis", 1 if node.opset < 20 else -2)
    along = along if along >= 0 else along + 1  # torch's complex tensors lack the last axis
    size = None if length is None else integers(length)[0]
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    real = x.shape[-1] == 1
    if onesided and not inverse:
        if not real:
            raise node.unsupported("wants the one-sided transform of a complex signal")
        return torch.view_as_real(torch.fft.rfft(x[..., 0], size, along))
    signal = x[..., 0] if real else torch.complex(x[..., 0], x[..., 1])
    if onesided:
        return torch.fft.irfft(signal, size, along).unsqueeze(-1)
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(signal, size, along))


OPERATORS: dict[str, Operator] = {"DFT": _dft}
