"""Which tensors are read where the user names none."""

from __future__ import annotations

import onnx
import pytest

from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.red_team.loot import find_earlier_tap, resolve_tap
from tests.conftest import photograph

TILE = photograph(32).astype("float32") / 255


def hardened(model: onnx.ModelProto, **placements: str) -> onnx.ModelProto:
    attributes = SvdPerturbAttributes(rank=2, gain=3.0)
    sites = [Site(layer, attributes, placement) for layer, placement in placements.items()]  # type: ignore[arg-type]
    return InsertSvdPerturb(sites=sites)(model).model


@pytest.mark.parametrize(
    ("placements", "tap"),
    [
        ({"a": "paired", "b": "paired", "d": "in-path"}, "b"),
        ({"a": "in-path", "b": "paired", "d": "paired"}, "d"),
        ({"a": "in-path", "d": "in-path"}, "d"),
    ],
)
def test_the_default_tap_is_the_last_paired_layer(
    conv_net: onnx.ModelProto, placements: dict[str, str], tap: str
) -> None:
    assert resolve_tap(None, conv_net, hardened(conv_net, **placements)) == tap
    assert resolve_tap("c", conv_net, hardened(conv_net, **placements)) == "c"


@pytest.mark.parametrize(
    ("placements", "earlier"),
    [
        ({"a": "paired", "d": "paired"}, "a"),
        ({"a": "paired", "b": "paired", "d": "paired"}, "b"),
        # A layer in the path misleads little: the nearest map before the tap does as well.
        ({"a": "in-path", "d": "paired"}, "c"),
        ({"d": "paired"}, "c"),
    ],
)
def test_the_earlier_tap_misleads_too_where_one_does(
    conv_net: onnx.ModelProto, card: ModelCard, placements: dict[str, str], earlier: str
) -> None:
    assert find_earlier_tap("d", conv_net, hardened(conv_net, **placements), card, TILE) == earlier
