"""The local functions as ONNX objects: legal, self-contained, usable many times in one graph, free where off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdguard.graph_passes.layers import subgraphs
from kdguard.graph_passes.op import DOMAIN, MIN_OPSET, OP_TYPES, VERSION, SvdPerturbAttributes, functions, op_functions
from kdguard.graph_passes.op.conventions import Modulation
from kdguard.graph_passes.op.one_op import one_op_model
from tests.conftest import run_onnx
from tests.graph_passes.op.op_models import map_with_spectrum, op_model, relative_error, run_op
from tests.graph_passes.op.test_parity import ALONE, KEY


def all_nodes(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """These nodes and those of their subgraphs."""
    return list(nodes) + [n for node in nodes for graph in subgraphs(node) for n in all_nodes(list(graph.node))]


@pytest.mark.parametrize("opset", [15, 18, 23])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_passes_full_checker_and_strict_inference(opset: int, dtype: int) -> None:
    model = one_op_model(SvdPerturbAttributes(), opset=opset, dtype=dtype, restored=True)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    assert (types["Y"], types["change"], types["Z"]) == (dtype, TensorProto.FLOAT, dtype)


@pytest.mark.parametrize("exact_change", [False, True])
def test_uses_standard_ops_and_itself_only(exact_change: bool) -> None:
    found = op_functions(18, exact_change=exact_change)
    assert sorted(function.name for function in found) == sorted(OP_TYPES)
    for function in found:
        assert function.domain == DOMAIN
        own = {(n.domain, n.op_type) for n in all_nodes(list(function.node)) if n.domain}
        assert own <= {(DOMAIN, name) for name in OP_TYPES}


def test_too_old_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="opset 14"):
        op_functions(MIN_OPSET - 1)


def test_maps_of_different_sizes_in_one_graph() -> None:
    """A symbol such as P in the function would tie every map of a model to one size.

    onnxruntime then re-uses buffers between them and fails, or worse.
    """
    common = {"domain": DOMAIN, **SvdPerturbAttributes(rank=2, gain=4.0).node_attributes()}
    graph = helper.make_graph(
        [
            helper.make_node("SvdPerturb", ["X"], ["big", "c1"], **common),
            helper.make_node("MaxPool", ["big"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Concat", ["pooled", "pooled"], ["wide"], axis=1),
            helper.make_node("SvdPerturb", ["wide"], ["Y", "c2"], **common),
        ],
        "sizes",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 6, "h", "w"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 12, "h2", "w2"])],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)],
        functions=op_functions(18),
        ir_version=10,
    )
    for size in (8, 32):
        (Y,) = run_onnx(model, X=np.random.default_rng(0).standard_normal((1, 6, size, size)).astype(np.float32))
        assert Y.shape == (1, 12, size // 2, size // 2)


NEUTRAL = {
    "centred": {},
    "adaptive": {"adaptive": 0.0},
    "modulation": {"modulation": Modulation.NONE, "pattern": KEY},
    "coherence": {"coherence": 0.0},
    "stride": {"stride": 1},
}
"""What leaves each attribute off; a key without a modulation says nothing."""


@pytest.mark.parametrize("strength", [None, 0.4])
@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("channels", [24, 120])
def test_off_is_exactly_plain_asvp(name: str, strength: float | None, channels: int) -> None:
    """Bit for bit what a node gives that names rank and gain only; and that is Y = F + s (h - 1) U U^T F."""
    X = map_with_spectrum(np.random.default_rng(1), channels, (9, 14), np.geomspace(1, 0.1, 24)).astype(np.float32)
    model = op_model(SvdPerturbAttributes(rank=3, gain=6.0, **NEUTRAL[name]), strength=strength)
    bare = op_model(SvdPerturbAttributes(rank=3, gain=6.0), strength=strength)
    perturb = next(node for node in bare.graph.node if node.op_type == "SvdPerturb")
    kept = [attribute for attribute in perturb.attribute if attribute.name in ("rank", "gain")]
    del perturb.attribute[:]
    perturb.attribute.extend(kept)
    Y = run_onnx(model, X=X)[0]
    np.testing.assert_array_equal(Y, run_onnx(bare, X=X)[0])
    F = X.reshape(channels, -1).astype(np.float64)
    U = np.linalg.svd(F, full_matrices=False)[0][:, :3]
    plain = F + (1.0 if strength is None else strength) * 5.0 * U @ (U.T @ F)
    assert relative_error(Y, plain.reshape(X.shape)) < 1e-5


WITHOUT_EFFECT = {
    "a pattern of ones": {"modulation": Modulation.PATTERN, "pattern": (1.0, 1.0)},
    "a cap out of reach": {"coherence": 1e6},
    "a tail that never flips": {"modulation": Modulation.TAIL_SIGN, "pattern": (1.0,) * 24 + (0.0,) * 24 * 11},
    "a gain of one that follows the spectrum": {"gain": 1.0, "adaptive": 1.0},
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_settings_without_effect_are_plain_asvp(name: str) -> None:
    """To rounding: what is switched on goes another way through the function."""
    X = map_with_spectrum(np.random.default_rng(1), 24, (9, 14), np.geomspace(1, 0.1, 24), batch=2).astype(np.float32)
    changed = {"rank": 3, "gain": 6.0, **WITHOUT_EFFECT[name]}
    plain = SvdPerturbAttributes(rank=3, gain=changed["gain"])
    assert relative_error(run_op(SvdPerturbAttributes(**changed), X)[0], run_op(plain, X)[0]) < 1e-6


@pytest.mark.parametrize("name", ["plain", "adaptive", "stride"])
def test_dense_and_thin_products_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a restorer, one product serves up to 96 channels, two above; either is forced on the same maps."""
    attributes = SvdPerturbAttributes(rank=3, gain=9.0, shared=False, **ALONE[name])
    for channels in (95, 96, 97, 130):
        X = np.random.default_rng(channels).standard_normal((2, channels, 15, 15)).astype(np.float32)
        default = run_op(attributes, X)
        results = {}
        for limit in (0, 1000):
            monkeypatch.setattr(functions, "DENSE_CHANNELS", limit)
            results[limit] = run_op(attributes, X)
        monkeypatch.undo()
        assert relative_error(results[0][0], results[1000][0]) < 1e-6
        chosen = results[1000 if channels <= 96 else 0]
        np.testing.assert_array_equal(default[0], chosen[0])
        assert not np.array_equal(results[0][0], results[1000][0])


def test_an_infinity_elsewhere_in_the_batch_takes_the_thin_products() -> None:
    X = np.random.default_rng(2).standard_normal((2, 8, 9, 9)).astype(np.float32)
    attributes = SvdPerturbAttributes(rank=2, gain=9.0, shared=False)
    dense = run_op(attributes, X)[0]
    X[1, 0, 0, 0] = np.inf
    thin = run_op(attributes, X)[0]
    assert relative_error(thin[0], dense[0]) < 1e-6
    assert not np.array_equal(thin[0], dense[0])


MARKS = {
    "plain": Counter(),
    "not shared": Counter(If=1),
    "centred": Counter(ReduceMean=1),
    "adaptive": Counter(Pow=1),
    "pattern": Counter(Mod=1, Pow=1),
    "tail sign": Counter(Mod=1, Split=1),
    "coherence": Counter(),
    "stride": Counter({"map Slice": 1}),
    "all with pattern": Counter({"Mod": 1, "Pow": 2, "ReduceMean": 1, "map Slice": 1}),
    "all with tail sign": Counter({"Mod": 1, "Split": 1, "Pow": 1, "ReduceMean": 1, "map Slice": 1}),
}
"""Nodes that only one attribute needs. The one If that may stay asks about the map: few channels, all finite."""


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_what_is_off_costs_nothing(name: str, dtype: int, tmp_path: Path) -> None:
    """onnxruntime folds every condition on attributes, and drops the other branch."""
    path = tmp_path / "optimised.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    changed = {"shared": False} if name == "not shared" else ALONE[name]
    model = op_model(SvdPerturbAttributes(rank=3, gain=6.0, **changed), dtype=dtype)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = all_nodes(list(onnx.load(path).graph.node))
    found = Counter(node.op_type for node in nodes if node.op_type in ("If", "Pow", "Mod", "Split", "ReduceMean"))
    found["map Slice"] += sum(node.op_type == "Slice" and len(node.input) == 5 for node in nodes)
    assert +found == MARKS[name]
