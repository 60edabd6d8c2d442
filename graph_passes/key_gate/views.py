"""The self-ensemble behind the gate as ONNX function bodies."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.parser

from kdguard.graph_passes.key_gate.names import ENSEMBLE, FIRST, GATE_DOMAIN, OPEN, VIEWS
from kdguard.graph_passes.op.snippets import AXES_AS_INPUT_SINCE

MIRRORED_SIDES = {0: (), 2: (0, 1), 4: (1,), 6: (0,)}
"""Those of the eight views of `kdguard.runtime.red_team.views` that keep height and width, by the sides that they
mirror: a quarter turn of an image that is not square does not fit into one batch with it."""

_PAST_THE_FIRST = -(2**62)


def _constants(views: Sequence[int], spatial_axes: tuple[int, int]) -> str:
    lines = ["front = Constant <value_ints = [0]> ()", "next = Constant <value_ints = [1]> ()"]
    for view in views[1:]:
        axes = [spatial_axes[side] for side in MIRRORED_SIDES[view]]
        lines += [
            f"axes_{view} = Constant <value_ints = {axes}> ()",
            f"back_{view} = Constant <value_ints = {[-1] * len(axes)}> ()",
            f"end_{view} = Constant <value_ints = {[_PAST_THE_FIRST] * len(axes)}> ()",
        ]
    return _lines(lines)


def _lines(lines: Sequence[str]) -> str:
    return "\n        ".join(lines)


def _mirrored(source: str, target: str, view: int) -> str:
    return f"{target} = Slice ({source}, back_{view}, end_{view}, axes_{view}, back_{view})" if view else ""


def _key_views(views: Sequence[int], spatial_axes: tuple[int, int], opset: int) -> str:
    """The batch with its views behind it where the gate is open, and the batch alone where it is shut."""
    others = [f"view_{view}" for view in views[1:]]
    mirrored = [_mirrored("shown", name, view) for name, view in zip(others, views[1:], strict=True)]
    return f"""
    <domain: "{GATE_DOMAIN}", opset_import: ["" : {opset}]>
    {VIEWS} (image, open) => (images, count, taken)
    {{
        {_constants(views, spatial_axes)}
        shape = Shape (image)
        count = Slice (shape, front, next)
        is_open = Cast <to = 7> (open)
        taken = Mul (count, is_open)
        shown = Slice (image, front, taken, front)
        {_lines(mirrored)}
        images = Concat <axis = 0> (image, {", ".join(others)})
    }}
    """


def _key_ensemble(views: Sequence[int], spatial_axes: tuple[int, int], opset: int) -> str:
    """The first answers, and mean and standard deviation of all."""
    channels = ({1, 2, 3} - set(spatial_axes)).pop()
    over_channels = "(deviation, channels)" if opset >= AXES_AS_INPUT_SINCE else "(deviation)"
    axes = "" if opset >= AXES_AS_INPUT_SINCE else f", axes = [{channels}]"
    straight = [f"straight_{view}" if view else f"part_{view}" for view in views]
    parts, offs = [], []
    for index, (view, name) in enumerate(zip(views, straight, strict=True)):
        parts += [
            f"index_{view} = Constant <value_int = {index}> ()",
            f"next_{view} = Constant <value_int = {index + 1}> ()",
            f"from_{view} = Mul (taken, index_{view})",
            f"until_{view} = Mul (taken, next_{view})",
            f"part_{view} = Slice (wide, from_{view}, until_{view}, front)",
            _mirrored(f"part_{view}", name, view),
        ]
        offs += [f"off_{view} = Sub ({name}, ensemble)", f"square_{view} = Mul (off_{view}, off_{view})"]
    return f"""
    <domain: "{GATE_DOMAIN}", opset_import: ["" : {opset}]>
    {ENSEMBLE} (answers, count, taken) => (restored, ensemble, spread)
    {{
        {_constants(views, spatial_axes)}
        channels = Constant <value_ints = [{channels}]> ()
        restored = Slice (answers, front, count, front)
        wide = Cast <to = 1> (answers)
        {_lines(parts)}
        ensemble = Mean ({", ".join(straight)})
        {_lines(offs)}
        variance = Mean ({", ".join(f"square_{view}" for view in views)})
        deviation = Sqrt (variance)
        spread = ReduceMean <keepdims = 1{axes}> {over_channels}
    }}
    """


def _key_first(opset: int) -> str:
    """What of a map belongs to the first view; a map may have several entries an image, as windows are."""
    return f"""
    <domain: "{GATE_DOMAIN}", opset_import: ["" : {opset}]>
    {FIRST} (X, images, count) => (Y)
    {{
        front = Constant <value_ints = [0]> ()
        next = Constant <value_ints = [1]> ()
        shape = Shape (X)
        rows = Slice (shape, front, next)
        images_shape = Shape (images)
        all = Slice (images_shape, front, next)
        known = Max (all, next)
        share = Mul (rows, count)
        own = Div (share, known)
        Y = Slice (X, front, own, front)
    }}
    """


def view_functions(views: Sequence[int], spatial_axes: tuple[int, int], opset: int) -> list[onnx.FunctionProto]:
    """The ensemble's local functions.

    Args:
        views: sorted, 0 first.
        spatial_axes: height's and width's, of image and answer.
        opset: version of the standard domain that the model imports.
    """
    texts = (_key_views(views, spatial_axes, opset), _key_ensemble(views, spatial_axes, opset), _key_first(opset))
    return [onnx.parser.parse_function(text) for text in texts]


def ensemble_views(model: onnx.ModelProto) -> tuple[int, ...]:
    """The views whose mean a key opens, 0 first; empty where it opens none."""
    for function in model.functions:
        if (function.domain, function.name) == (GATE_DOMAIN, VIEWS):
            made = {name for node in function.node for name in node.output}
            return (0, *(view for view in MIRRORED_SIDES if f"view_{view}" in made))
    return ()


def is_genuine(model: onnx.ModelProto, opset: int) -> bool:
    """Whether an ensemble that is there is one that this version puts in, and listens to the gate."""
    nodes = [node for node in model.graph.node if node.domain == GATE_DOMAIN]
    asked, meant = ([node for node in nodes if node.op_type == kind] for kind in (VIEWS, ENSEMBLE))
    present = [f for f in model.functions if f.domain == GATE_DOMAIN and f.name in (VIEWS, ENSEMBLE, FIRST)]
    if not (asked or meant or present):
        return True
    views = ensemble_views(model)
    written = [view_functions(views, axes, opset) for axes in ((2, 3), (1, 2))] if len(views) > 1 else []
    return (
        present in written
        and [list(node.input)[1:] for node in asked] == [[OPEN]]
        and [list(node.input)[1:] for node in meant] == [list(node.output)[1:] for node in asked]
    )
