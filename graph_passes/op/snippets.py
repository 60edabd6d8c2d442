"""Lines of ONNX text that several function bodies share. Names that end in `_` are theirs alone."""

from __future__ import annotations

AXES_AS_INPUT_SINCE = 18
TINY = "1e-37"


def reduce(op: str, tensor: str, axis: int | tuple[int, int], opset: int) -> str:
    """A reduction that keeps its axes; opset 18 (13 for sums) made `axes` an input, here `axis_1` and so on."""
    axes = (axis,) if isinstance(axis, int) else axis
    if op == "ReduceSum" or opset >= AXES_AS_INPUT_SINCE:
        return f"{op} <keepdims = 1> ({tensor}, axis_{'_'.join(map(str, axes))})"
    return f"{op} <keepdims = 1, axes = {list(axes)}> ({tensor})"


def normalised(source: str, target: str, opset: int) -> str:
    """Lines that scale a [N, C, 1] vector to unit length; zero becomes NaN."""
    return f"""
        {target}_norm = {reduce("ReduceL2", source, 1, opset)}
        {target} = Div ({source}, {target}_norm)
    """


def rescaled(source: str, target: str, opset: int) -> str:
    """Lines that scale positive semidefinite [N, C, C] matrices to a largest entry of 1; zero becomes NaN.

    The largest entry of such a matrix lies on its diagonal and is not negative, so no Abs is needed.
    """
    return f"""
        {target}_max = {reduce("ReduceMax", source, (1, 2), opset)}
        {target} = Div ({source}, {target}_max)
    """


def finite_or_zero(source: str, target: str) -> str:
    """Lines that replace NaN and infinity by 0; infinity times zero is NaN, so one test finds both."""
    return f"""
        {source}_probe = Mul ({source}, zero)
        {source}_unknown = IsNaN ({source}_probe)
        {target} = Where ({source}_unknown, zero, {source})
    """
