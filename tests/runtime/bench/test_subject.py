"""The size that is timed, held against the model's card."""

from __future__ import annotations

import pytest

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.runtime.bench.subject import choose_size, photograph
from kdguard.runtime.engines.shapes import Size

CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
OF_48 = CARD.model_copy(update={"size_multiple": 48})
FIXED = CARD.model_copy(update={"fixed_size": (64, 96)})


@pytest.mark.parametrize(
    ("card", "text", "size"),
    [
        (CARD, None, (256, 256)),
        (OF_48, None, (288, 288)),
        (FIXED, None, (64, 96)),
        (CARD, "720x1280", (720, 1280)),
        (OF_48, "48x96", (48, 96)),
        (FIXED, "64x96", (64, 96)),
    ],
)
def test_sizes(card: ModelCard, text: str | None, size: tuple[int, int]) -> None:
    assert choose_size(text, card, "--size") == size


@pytest.mark.parametrize(
    ("card", "text", "line"),
    [
        (CARD, "256", "--size: '256' is no image size; write HEIGHTxWIDTH"),
        (CARD, "0x64", "--size: '0x64' is no image size"),
        (OF_48, "96x100", "--size: 96x100 is no multiple of 48, which the model needs; give 96x144, say"),
        (FIXED, "96x64", "--size: the model takes images of 64x96 only; leave it out"),
    ],
)
def test_sizes_that_the_model_does_not_take(card: ModelCard, text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        choose_size(text, card, "--size")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_photograph_fills_any_size(channels: int) -> None:
    image = photograph(Size(700, 40), channels)
    assert image.shape == (700, 40, channels)
    assert image.dtype == "float32"
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1
    assert image[600:].std() > 0.1
