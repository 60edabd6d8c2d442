"""Image sizes that an engine is built for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import onnx

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard


class Size(NamedTuple):
    """Height and width of the degraded image."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


class SizeRange(NamedTuple):
    """Smallest and largest size that an engine takes, and the one that it is tuned for."""

    smallest: Size
    tuned: Size
    largest: Size


DEFAULT_RANGE = SizeRange(Size(64, 64), Size(720, 1280), Size(1080, 1920))


def parse_size(text: str, option: str = "") -> Size:
    """`HEIGHTxWIDTH`.

    Args:
        option: where it was said, for the message.

    Raises:
        UserError: anything else.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if not found:
        where = f"{option}: " if option else ""
        raise UserError(f"{where}{text!r} is no image size; write HEIGHTxWIDTH, 720x1280 say")
    return Size(*map(int, found.groups()))


def parse_range(texts: Sequence[str], card: ModelCard) -> SizeRange:
    """What `--shapes MIN OPT MAX` says, held against the model's card.

    Raises:
        UserError: sizes out of order, or such as the model does not take.
    """
    smallest, tuned, largest = (parse_size(text, "--shapes") for text in texts)
    if card.fixed_size and {smallest, tuned, largest} != {card.fixed_size}:
        raise UserError(f"--shapes: the model takes images of {Size(*card.fixed_size)} only; leave the option out")
    for axis, name in enumerate(("heights", "widths")):
        if not smallest[axis] <= tuned[axis] <= largest[axis]:
            raise UserError(
                f"--shapes: the {name} {smallest[axis]}, {tuned[axis]} and {largest[axis]} do not ascend; give the "
                "smallest size, the usual one and the largest"
            )
    for size in (smallest, tuned, largest):
        if any(side % card.size_multiple for side in size):
            raise UserError(
                f"--shapes: {size} is no multiple of {card.size_multiple}, which the model needs; images are padded "
                "to it, so give padded sizes"
            )
    return SizeRange(smallest, tuned, largest)


def default_range(card: ModelCard) -> SizeRange:
    """64x64 to 1080x1920, rounded up to what the model takes; a fixed size where it has one."""
    if card.fixed_size:
        return SizeRange(*[Size(*card.fixed_size)] * 3)

    def rounded(size: Size) -> Size:
        return Size(*(-(-side // card.size_multiple) * card.size_multiple for side in size))

    return SizeRange(*map(rounded, DEFAULT_RANGE))


def profile(model: onnx.ModelProto, card: ModelCard, sizes: SizeRange) -> dict[str, list[list[int]]]:
    """Per input its smallest, usual and largest shape: fixed sides as the model has them, a free batch 1.

    Raises:
        UserError: an input that is no map has free sides, or the image input has no shape.
    """
    found = {}
    initial = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in initial:
            continue
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
        if value.name == card.input_name and len(sides) != 4:
            raise UserError(f"the input {value.name!r} has no shape of four sides; export the model with one")
        if value.name != card.input_name and not all(sides) and len(sides) != 4:
            raise UserError(
                f"the input {value.name!r} has free sides and is no map like the image, so nothing says what they are; "
                "export the model with fixed ones"
            )
        rows, columns, channels = (1, 2, 3) if card.layout == "NHWC" else (2, 3, 1)
        # A map beside the image, of noise levels say, has its height and width, and one channel where that is free.
        free = {0: max(card.batch, 1), channels: card.channels if value.name == card.input_name else 1}
        found[value.name] = [
            [side or (free | {rows: size.height, columns: size.width})[axis] for axis, side in enumerate(sides)]
            for size in sizes
        ]
    return found
