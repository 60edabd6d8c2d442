"""Pre- and postconditions of passes."""

from __future__ import annotations

import onnx
import pytest

from kdguard.graph_passes.pass_base import GraphPass, PassResult, PostconditionError, full_check_problem
from tests.conftest import make_conv_net


class Breaks(GraphPass):
    """Renames an input so that nothing produces it."""

    def call(self, model: onnx.ModelProto) -> PassResult:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        broken.graph.node[1].input[0] = "nowhere"
        return PassResult(broken, modified=True)


def test_a_pass_that_breaks_the_model_is_our_bug() -> None:
    with pytest.raises(PostconditionError, match="Breaks broke the model"):
        Breaks()(make_conv_net())


def test_a_model_that_failed_before_is_not_blamed_on_the_pass() -> None:
    already_broken = Breaks().call(make_conv_net()).model
    assert full_check_problem(already_broken) is not None
    assert Breaks()(already_broken).modified


def test_sound_models_have_no_problem() -> None:
    assert full_check_problem(make_conv_net()) is None
