"""Every operator that has a torch form, by name; names of other domains carry them as a prefix."""

from __future__ import annotations

from kdguard.runtime.torch_graph import (
    activations,
    constants,
    convolution,
    elementwise,
    fourier,
    indexing,
    joining,
    matrices,
    normalisation,
    pooling,
    reductions,
    resampling,
    shapes,
)
from kdguard.runtime.torch_graph.node import Operator

FAMILIES = (
    activations,
    constants,
    convolution,
    elementwise,
    fourier,
    indexing,
    joining,
    matrices,
    normalisation,
    pooling,
    reductions,
    resampling,
    shapes,
)
OPERATORS: dict[str, Operator] = {name: form for family in FAMILIES for name, form in family.OPERATORS.items()}
