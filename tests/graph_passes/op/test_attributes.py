"""What the attributes accept, and what they turn into."""

from __future__ import annotations

import math

import pytest
from onnx import helper
from pydantic import ValidationError

from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.conventions import Modulation

BAD = {
    "rank": [0, 17, -1, 2.5],
    "gain": [0.0, -1.0, math.inf, math.nan, 1.1e6],
    "adaptive": [-0.1, 1.1, math.nan],
    "modulation": [3, -1],
    "pattern": [(), (math.nan,), (math.inf,), (1e39,), (0.5,) * 65537],
    "coherence": [-0.5, math.inf, math.nan, 1e39],
    "stride": [0, 65, -2],
    "unknown": [1],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_bad_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        SvdPerturbAttributes(**{field: value})


@pytest.mark.parametrize("modulation", [Modulation.PATTERN, Modulation.TAIL_SIGN])
def test_a_modulation_needs_a_key(modulation: Modulation) -> None:
    for pattern in ((0.0,), (0.0, 0.0)):
        with pytest.raises(ValidationError, match="not all zero"):
            SvdPerturbAttributes(modulation=modulation, pattern=pattern)
    assert SvdPerturbAttributes(modulation=modulation, pattern=(0.0, 1.0)).pattern == (0.0, 1.0)


def test_powers_stay_inside_float32() -> None:
    """Where they overflow, the op would leave positions alone without a word."""
    for gain, exponent in ((10.0, 6.5), (0.1, -6.5), (10.0, -6.5), (1e6, 1.1)):
        with pytest.raises(ValidationError, match="power"):
            SvdPerturbAttributes(gain=gain, modulation=Modulation.PATTERN, pattern=(0.0, exponent))
        SvdPerturbAttributes(gain=gain, modulation=Modulation.TAIL_SIGN, pattern=(0.0, exponent))
    for gain, exponent in ((10.0, 6.0), (0.1, -6.0), (1e6, 1.0), (1.0, 1e6)):
        SvdPerturbAttributes(gain=gain, modulation=Modulation.PATTERN, pattern=(exponent,))


def test_a_factor_that_may_be_negative_takes_no_powers() -> None:
    with pytest.raises(ValidationError, match="negative"):
        SvdPerturbAttributes(gain=0.5, adaptive=0.5, modulation=Modulation.PATTERN, pattern=(0.5,))
    SvdPerturbAttributes(gain=0.5, adaptive=0.5)
    SvdPerturbAttributes(gain=0.5, modulation=Modulation.PATTERN, pattern=(0.5,))


def test_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SvdPerturbAttributes().gain = 2.0  # type: ignore[misc]


def test_every_field_becomes_a_node_attribute_that_reads_back() -> None:
    attributes = SvdPerturbAttributes(
        rank=3,
        gain=7.5,
        centred=True,
        adaptive=0.5,
        modulation=Modulation.TAIL_SIGN,
        pattern=(0.5, -2.0),
        coherence=1.25,
        stride=2,
    )
    stored = attributes.node_attributes()
    node = helper.make_node("SvdPerturb", ["X"], ["Y", "change"], domain="kdguard", **stored)
    back = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    assert back.pop("plugin_namespace") == b"kdguard"
    assert back.keys() == SvdPerturbAttributes.model_fields.keys()
    assert SvdPerturbAttributes(**back) == attributes
