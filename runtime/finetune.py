"""A few steps of training on a model that exists as a file only; used by thieves and by defences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.model_card import ModelCard
from kdguard.runtime.extra_inputs import fill_inputs
from kdguard.runtime.terminal import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from kdguard.runtime.torch_graph import GraphModule

LOOKS = 10
"""Times that the model is scored over a full training."""

GRADIENT_NORM = 0.1
"""Longer gradients are cut to it, so that one crop does not fill Adam's averages for many steps. The steps' size is
the learning rate's matter: Adam divides the gradients' scale out."""


class TrainableTeacher:
    """A model in torch, asked with tensors in its own layout and range.

    Attributes:
        module: holds the weights.
    """

    def __init__(self, model: onnx.ModelProto, card: ModelCard) -> None:
        """Build the module on the GPU where torch sees one.

        Raises:
            UserError: an operator that has no torch form.
        """
        import torch

        from kdguard.runtime.torch_graph import GraphModule

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module: GraphModule = GraphModule(model, card.output_name, card.input_name).to(self.device)
        self._card = card
        self._declared = {
            value.name: [d.dim_value or d.dim_param or None for d in value.type.tensor_type.shape.dim]
            for value in model.graph.input
        }

    def __call__(self, images: NDArray[np.floating], taps: Sequence[str] = ()) -> list[Tensor]:
        """The output and the taps for image tensors of the model's own form."""
        import torch

        def moved(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

        extra = fill_inputs(self._card, self._declared, images.shape)
        return self.module(moved(images), {name: moved(values) for name, values in extra.items()}, taps)


def finetune(
    model: onnx.ModelProto,
    card: ModelCard,
    loss: Callable[[TrainableTeacher, int], Tensor],
    score: Callable[[TrainableTeacher], float] | None,
    steps: int,
    learning_rate: float,
    description: str,
) -> onnx.ModelProto:
    """The model with trained weights.

    Args:
        loss: of step 0, 1, ...; where it is not finite training ends.
        score: higher is better; asked without gradients. The best state that it saw is kept, that
            before training included; the last one without it.

    Raises:
        UserError: an operator that has no torch form.
    """
    import torch

    from kdguard.runtime.torch_graph import write_back

    teacher = TrainableTeacher(model, card)
    optimiser = torch.optim.Adam(teacher.module.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    best, state = -math.inf, None

    def look() -> None:
        nonlocal best, state
        if score is None:
            return
        with torch.no_grad():
            reached = score(teacher)
        if reached > best:
            best, state = reached, copy.deepcopy(teacher.module.state_dict())

    look()
    with progress_bar(description, steps) as advance:
        for step in range(steps):
            found = loss(teacher, step)
            if not torch.isfinite(found):
                break
            optimiser.zero_grad()
            found.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(teacher.module.parameters(), GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            advance()
            if (step + 1) % max(1, steps // LOOKS) == 0:
                look()
    if state is not None:
        teacher.module.load_state_dict(state)
    return write_back(model, teacher.module)
