"""An ONNX graph that torch runs and trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx
import torch
from torch import Tensor, nn

from kdguard.export.errors import UserError, first_line
from kdguard.export.onnx_files import default_opset
from kdguard.runtime.torch_graph.node import Node, Operator
from kdguard.runtime.torch_graph.prepare import described, prepared
from kdguard.runtime.torch_graph.registry import OPERATORS
from kdguard.runtime.torch_graph.weights import constants_of, holders, weight_names


class _Step(NamedTuple):
    node: Node
    run: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Planned(NamedTuple):
    step: _Step
    done_with: tuple[str, ...]
    """Tensors that nobody reads after this step."""


class GraphModule(nn.Module):
    """The main graph of a model as a differentiable module.

    Weights are parameters (see `weights` for what counts as one), other constants are buffers or stay
    what they are. float16 and bfloat16 are computed in float32. `train()` and `eval()` change nothing:
    normalisations keep the statistics of the file. Gradients flow where torch has them: not through
    rounding, comparisons and integers.

    Attributes:
        input_name: of the image.
        output_name: of what `forward` returns first.
    """

    def __init__(self, model: onnx.ModelProto, output_name: str | None = None, input_name: str | None = None) -> None:
        """Take the weights over and look every operator up.

        Args:
            output_name: the graph's first output unless given.
            input_name: the graph's first input unless given.

        Raises:
            UserError: something in the model has no torch form; it has no such input or output.
        """
        super().__init__()
        graph_outputs = [value.name for value in model.graph.output]
        self.output_name = graph_outputs[0] if output_name is None else output_name
        if self.output_name not in graph_outputs:
            raise UserError(f"the model has no output {self.output_name!r}; it has {graph_outputs}")
        flat = prepared(model)
        constants = constants_of(flat)
        inputs = [value.name for value in flat.graph.input if value.name not in constants]
        self._defaulted = {value.name for value in flat.graph.input} - set(inputs)
        if not inputs:
            raise UserError("the model has no input; there is nothing to restore")
        self.input_name = inputs[0] if input_name is None else input_name
        if self.input_name not in inputs:
            raise UserError(f"the model has no input {self.input_name!r}; it has {inputs}")
        self._further_inputs = set(inputs) - {self.input_name}
        self._steps = _steps(flat)
        self._plans: dict[tuple[str, ...], list[_Planned]] = {}
        self._hold(model, flat, constants)

    def _hold(self, model: onnx.ModelProto, flat: onnx.ModelProto, constants: dict[str, Tensor]) -> None:
        """Register weights and buffers, under numbered names because torch allows no dots in them."""
        own = dict(holders(model))  # what an inlined function holds has no place to be written back to
        weights = {name for name in weight_names(flat, constants) if name in own}
        self._parameter_names: dict[str, str] = {}
        self._buffer_names: dict[str, str] = {}
        self._values: dict[str, Tensor] = {}
        for index, (name, value) in enumerate(constants.items()):
            registered = f"{'weight' if name in weights else 'constant'}_{index}_{name.replace('.', '_')}"
            if name in weights:
                self._parameter_names[name] = registered
                self.register_parameter(registered, nn.Parameter(value))
            elif value.is_floating_point() and value.ndim:
                self._buffer_names[name] = registered
                self.register_buffer(registered, value)
            else:
                self._values[name] = value  # sizes, axes and numbers of a formula are read on the CPU

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names of the initializers (or outputs of Constant nodes) that are weights, with their parameters."""
        for name, registered in self._parameter_names.items():
            yield name, self.get_parameter(registered)

    def forward(
        self, tensor: Tensor, extra: Mapping[str, Tensor] | None = None, taps: Sequence[str] = ()
    ) -> list[Tensor]:
        """The output, then the taps.

        Args:
            tensor: the image, in the model's own layout and range, float32.
            extra: the model's further inputs, by name.
            taps: names of intermediate tensors.

        Raises:
            UserError: a further input is missing or unknown, a tap is not in the graph, or an operator
                refuses what it is given (a size that the model does not take).
        """
        wanted = (self.output_name, *taps)
        plan = self._plan(wanted)
        values = {self.input_name: tensor, **self._constants(), **self._further(extra or {})}
        for (node, run, inputs, outputs), done_with in plan:
            given = _beside_maps([values[name] if name else None for name in inputs])
            try:
                result = run(node, *given)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, IndexError, ValueError) as error:
                raise UserError(
                    f"operator {node.operator} (node {node.name!r}) fails on an image of shape {list(tensor.shape)}: "
                    f"{first_line(error)}; does the model take this size?"
                ) from error
            del given
            made = (result,) if isinstance(result, Tensor) else result
            values.update(pair for pair in zip(outputs, made, strict=False) if pair[0])
            del result, made
            for name in done_with:
                values.pop(name, None)
        return [values[name] for name in wanted]

    def _constants(self) -> dict[str, Tensor]:
        buffers = {name: self.get_buffer(registered) for name, registered in self._buffer_names.items()}
        return {**self._values, **buffers, **dict(self.named_weights())}

    def _further(self, extra: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        required = self._further_inputs
        if missing := sorted(required - extra.keys()):
            raise UserError(f"the model needs the further inputs {missing}; give them as `extra`")
        if unknown := sorted(extra.keys() - required - self._defaulted):
            raise UserError(f"the model has no inputs {unknown}; it has {sorted(required)}")
        return extra

    def _plan(self, wanted: tuple[str, ...]) -> list[_Planned]:
        """The steps that these tensors need, and what is read for the last time in each."""
        if wanted in self._plans:
            return self._plans[wanted]
        made = {name for step in self._steps for name in step.outputs}
        for name in wanted[1:]:
            if name not in made:
                raise UserError(f"tap {name!r} is not a tensor of the model's graph; see `kdguard inspect MODEL`")
        read, kept = set(wanted), set(wanted)
        plan: list[_Planned] = []
        for step in reversed(self._steps):
            if read.isdisjoint(step.outputs):
                continue
            touched = dict.fromkeys((*step.inputs, *step.outputs))
            plan.append(_Planned(step, tuple(name for name in touched if name not in read and name not in kept)))
            read.update(step.inputs)
        plan.reverse()
        self._plans[wanted] = plan
        return plan


def _beside_maps(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """Floats that were made from shapes, such as zero states, on the device of the maps they are used with."""
    device = next((tensor.device for tensor in tensors if tensor is not None and tensor.device.type != "cpu"), None)
    if device is None:
        return tensors
    return [t.to(device) if t is not None and t.ndim and t.is_floating_point() else t for t in tensors]


def _steps(model: onnx.ModelProto) -> list[_Step]:
    opset = default_opset(model)
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    return [
        _Step(node, OPERATORS[node.operator], tuple(proto.input), tuple(proto.output))
        for proto, node in ((proto, described(proto, opset)) for proto in nodes)
    ]
