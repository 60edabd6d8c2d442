"""Surgery that edits nothing loses nothing."""

from __future__ import annotations

import pytest

from kdguard.graph_passes.surgery import rewire
from tests.conftest import make_conv_net
from tests.graph_passes.rich_model import make_rich_model


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_an_empty_edit_gives_the_same_bytes(build: object) -> None:
    model = build()  # type: ignore[operator]
    before = model.SerializeToString(deterministic=True)
    assert rewire(model, lambda graph: []).SerializeToString(deterministic=True) == before
    assert model.SerializeToString(deterministic=True) == before


def test_removing_a_node_is_refused() -> None:
    with pytest.raises((AssertionError, ValueError)):
        rewire(make_conv_net(), lambda graph: graph.nodes.pop() and [])
