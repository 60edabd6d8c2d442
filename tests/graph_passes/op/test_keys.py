"""Keys are drawn from seed and layer, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.op.conventions import TAIL_GROUPS, Modulation
from kdguard.graph_passes.op.keys import MAX_WEIGHTS, POSITIONS, draw_key

KEYED = [Modulation.PATTERN, Modulation.TAIL_SIGN]


@pytest.mark.parametrize("kind", KEYED)
def test_the_same_seed_and_layer_draw_the_same_key(kind: Modulation) -> None:
    assert draw_key(kind, 3, "relu_7") == draw_key(kind, 3, "relu_7")
    others = [draw_key(kind, 4, "relu_7"), draw_key(kind, 3, "relu_8"), draw_key(kind, 3)]
    for other in others:
        assert len(other) == len(draw_key(kind, 3, "relu_7"))
        share = np.mean(np.sign(other) == np.sign(draw_key(kind, 3, "relu_7")))
        assert 0.4 < share < 0.6


def test_seed_and_layer_cannot_be_mistaken_for_each_other() -> None:
    assert draw_key(Modulation.PATTERN, 1, "1b") != draw_key(Modulation.PATTERN, 11, "b")


@pytest.mark.parametrize(("weights", "length"), [(64, 64), (MAX_WEIGHTS + 1, MAX_WEIGHTS), (1, TAIL_GROUPS)])
def test_weights_of_a_tail_are_normal_and_as_many_as_it_uses(weights: int, length: int) -> None:
    key = draw_key(Modulation.TAIL_SIGN, 0, "b", weights)
    assert len(key) == length
    assert all(value == float(np.float32(value)) for value in key)  # a file holds 32 bits
    if length > 100:
        assert abs(np.mean(key)) < 0.1
        assert 0.9 < np.std(key) < 1.1


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_signs_flip_alike_on_wide_maps(channels: int) -> None:
    """A key shorter than what it serves would repeat a projection, and turn the sign into a linear threshold."""
    F = np.random.default_rng(0).standard_normal((channels, 4000))
    for key in (draw_key(Modulation.TAIL_SIGN, 0, "b", 8 * channels), draw_key(Modulation.TAIL_SIGN, 0)):
        attributes = SvdPerturbAttributes(rank=2, gain=2.0, modulation=Modulation.TAIL_SIGN, pattern=key)
        flipped = np.mean(reference.tail_margins(F, np.zeros((channels, 2)), attributes) > 0)
        assert 0.31 < flipped < 0.44


def test_a_pattern_holds_exponents() -> None:
    key = draw_key(Modulation.PATTERN, 0)
    assert len(key) == POSITIONS
    assert set(key) == {1.0, -1.0}
    assert 0.45 < np.mean(np.array(key) > 0) < 0.55


@pytest.mark.parametrize("kind", Modulation)
def test_the_op_takes_every_key(kind: Modulation) -> None:
    SvdPerturbAttributes(gain=10.0, modulation=kind, pattern=draw_key(kind, 0))
    assert draw_key(Modulation.NONE, 0) == (0.0,)
