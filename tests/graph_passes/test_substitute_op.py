"""An op of our name that hands its input through."""

from __future__ import annotations

import numpy as np
import onnx

from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.strip_nodes import StripNodes
from kdguard.graph_passes.substitute_op import SubstituteOp
from kdguard.runtime.session import RestorationSession
from tests.conftest import photograph


def test_it_computes_what_deletion_computes(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    """For paired and in-path nodes alike; the file keeps all its nodes and weights."""
    tensor = image_to_tensor(photograph(32).astype(np.float32) / 255, card)
    attributes = SvdPerturbAttributes(rank=2, gain=5.0)
    for placement in ("paired", "in-path"):
        hardened = InsertSvdPerturb(["b"], attributes, placement=placement)(conv_net).model  # type: ignore[arg-type]
        substituted = SubstituteOp()(hardened).model
        assert substituted.graph.node == hardened.graph.node
        assert substituted.graph.initializer == hardened.graph.initializer
        outputs = [RestorationSession(m, card).run(tensor)[0] for m in (substituted, StripNodes()(hardened).model)]
        np.testing.assert_array_equal(*outputs)


def test_a_model_without_our_nodes_is_handed_back(conv_net: onnx.ModelProto) -> None:
    result = SubstituteOp()(conv_net)
    assert not result.modified
    assert result.model is conv_net
