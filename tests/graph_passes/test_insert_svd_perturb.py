"""The insertion pass on plain, rich, half-precision and foreign models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import UserError
from kdguard.graph_passes.insert_svd_perturb import STRENGTH, InsertSvdPerturb, Site
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import DOMAIN, SvdPerturbAttributes, reference
from kdguard.graph_passes.pass_base import PreconditionError, full_check_problem
from kdguard.runtime.session import expose_taps
from tests.conftest import make_conv_net, photograph, run_onnx
from tests.graph_passes.rich_model import make_rich_model

GAIN = SvdPerturbAttributes(rank=2, gain=10.0)
KEY = tuple(np.random.default_rng(7).standard_normal(19))
SITES = [
    Site("d", SvdPerturbAttributes(rank=3, gain=0.3, coherence=0.7), "in-path"),
    Site("b", SvdPerturbAttributes(rank=2, gain=9.0, modulation=2, pattern=KEY, centred=True)),
]
IMAGE = (photograph(40).transpose(2, 0, 1)[None] / 255).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 200.0 if error == 0 else -10 * float(np.log10(error))


def tapped(model: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    return run_onnx(expose_taps(model, names), image=IMAGE)


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
@pytest.mark.parametrize("placement", ["paired", "in-path"])
def test_result_is_legal_and_input_is_untouched(build: object, placement: str) -> None:
    model = build()  # type: ignore[operator]
    before = model.SerializeToString()
    result = InsertSvdPerturb(["b", "c"], GAIN, placement=placement)(model)  # type: ignore[arg-type]
    assert result.modified
    assert model.SerializeToString() == before
    assert full_check_problem(result.model) is None
    assert [entry.layer for entry in hardened_layers(result.model)] == ["b", "c"]


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_paired_keeps_the_output_and_moves_the_taps(build: object) -> None:
    model = build()  # type: ignore[operator]
    hardened = InsertSvdPerturb(["b", "d"], GAIN)(model).model
    clean_output, *clean_maps = tapped(model, "b", "d")
    output, *maps = tapped(hardened, "b", "d")
    assert psnr(output, clean_output) > 110
    for clean, moved in zip(clean_maps, maps, strict=True):
        expected = reference.svd_perturb(clean, GAIN).Y
        np.testing.assert_allclose(moved, expected, atol=1e-4 * np.abs(expected).max())
        assert np.linalg.norm(moved - clean) > np.linalg.norm(clean)


@pytest.mark.parametrize("build", [make_conv_net, make_rich_model])
def test_in_path_reaches_every_reader(build: object) -> None:
    model = build()  # type: ignore[operator]
    hardened = InsertSvdPerturb(["b"], GAIN, placement="in-path")(model).model
    assert psnr(run_onnx(hardened, image=IMAGE)[0], run_onnx(model, image=IMAGE)[0]) < 60
    assert not [node for node in hardened.graph.node if node.op_type == "SvdRestore"]


def test_gain_one_is_no_change() -> None:
    model = make_conv_net()
    hardened = InsertSvdPerturb(["*"], SvdPerturbAttributes(gain=1.0), placement="in-path")(model).model
    np.testing.assert_allclose(run_onnx(hardened, image=IMAGE)[0], run_onnx(model, image=IMAGE)[0], atol=1e-6)


@pytest.mark.parametrize("placement", ["paired", "in-path"])
def test_twice_changes_nothing(placement: str) -> None:
    insert = InsertSvdPerturb(["b", "d"], GAIN, placement=placement)  # type: ignore[arg-type]
    once = insert(make_rich_model()).model
    again = insert(once)
    assert not again.modified
    assert again.model is once


def test_a_second_run_may_add_layers() -> None:
    once = InsertSvdPerturb(["b"], GAIN)(make_rich_model()).model
    more = InsertSvdPerturb(["b", "d"], GAIN)(once)
    assert more.modified
    assert [entry.layer for entry in hardened_layers(more.model)] == ["b", "d"]
    assert len([f for f in more.model.functions if f.domain == DOMAIN]) == 3
    assert [t.name for t in more.model.graph.initializer].count(STRENGTH) == 1
    assert psnr(run_onnx(more.model, image=IMAGE)[0], run_onnx(make_rich_model(), image=IMAGE)[0]) > 110


@pytest.mark.parametrize(
    ("attributes", "placement"),
    [
        (SvdPerturbAttributes(rank=2, gain=11.0), "paired"),
        (SvdPerturbAttributes(rank=3, gain=10.0), "paired"),
        (GAIN, "in-path"),
    ],
)
def test_other_parameters_on_a_hardened_layer_are_refused(attributes: SvdPerturbAttributes, placement: str) -> None:
    once = InsertSvdPerturb(["b"], GAIN)(make_conv_net()).model
    with pytest.raises(PreconditionError, match="already hardened"):
        InsertSvdPerturb(["b"], attributes, placement=placement)(once)  # type: ignore[arg-type]


def strip_renames(graph: onnx.GraphProto) -> list[tuple[object, ...]]:
    """Everything about the nodes but the names of their outer tensors."""
    return [
        (n.op_type, n.name, n.domain, n.doc_string, tuple((m.key, m.value) for m in n.metadata_props), len(n.input))
        for n in graph.node
        if n.domain != DOMAIN
    ]


def test_nothing_of_the_users_is_lost() -> None:
    model = make_rich_model()
    hardened = InsertSvdPerturb(["b", "d"], GAIN)(model).model
    assert strip_renames(hardened.graph) == strip_renames(model.graph)
    assert hardened.graph.doc_string == model.graph.doc_string
    assert hardened.graph.metadata_props == model.graph.metadata_props
    assert hardened.metadata_props == model.metadata_props
    assert hardened.doc_string == model.doc_string
    assert hardened.graph.input == model.graph.input
    assert hardened.graph.output == model.graph.output
    assert [f for f in hardened.functions if f.domain == "users"] == list(model.functions)
    kept = {t.name: t for t in hardened.graph.initializer}
    for tensor in model.graph.initializer:
        assert kept[tensor.name] == tensor


def test_subgraphs_read_the_restored_map_and_keep_their_own_names() -> None:
    hardened = InsertSvdPerturb(["b", "d"], GAIN)(make_rich_model()).model
    branch = next(node for node in hardened.graph.node if node.op_type == "If")
    bodies = {a.name: a.g for a in branch.attribute}
    assert list(bodies["then_branch"].node[0].input) == ["kdguard/b/out"]
    assert list(bodies["then_branch"].node[1].input) == ["inner"]
    assert bodies["then_branch"].node[0].doc_string == "inside"
    assert [entry.key for entry in bodies["then_branch"].node[0].metadata_props] == ["inner origin"]
    assert list(bodies["else_branch"].node[0].input) == ["kdguard/b/out"]
    loop = next(node for node in hardened.graph.node if node.op_type == "Loop")
    assert list(loop.attribute[0].g.node[0].input) == ["carried", "kdguard/d/out"]


def test_untouched_layers_leave_subgraphs_byte_for_byte() -> None:
    model = make_rich_model()
    hardened = InsertSvdPerturb(["c"], GAIN)(model).model
    for op_type in ("If", "Loop"):
        before, after = (next(n for n in m.graph.node if n.op_type == op_type) for m in (model, hardened))
        assert before.SerializeToString() == after.SerializeToString()


@pytest.mark.parametrize("opset", [15, 17, 18, 21, 23])
def test_opsets(opset: int) -> None:
    model = make_conv_net(opset=opset)
    hardened = InsertSvdPerturb(["b"], GAIN)(model).model
    assert psnr(run_onnx(hardened, image=IMAGE)[0], run_onnx(model, image=IMAGE)[0]) > 110


def test_no_symbol_of_shape_inference_gets_into_the_file() -> None:
    """Two runs number their symbols alike; the same symbol on maps of other sizes breaks runtimes."""
    model = make_conv_net()
    hardened = InsertSvdPerturb(["b", "d"], GAIN)(model).model
    symbols = {d.dim_param for v in hardened.graph.value_info for d in v.type.tensor_type.shape.dim}
    assert symbols <= {"", "n", "h", "w"}


def test_old_ir_versions_are_raised() -> None:
    model = make_conv_net(opset=15)
    model.ir_version = 7
    assert InsertSvdPerturb(["b"], GAIN)(model).model.ir_version == 8


def test_new_tensors_are_described() -> None:
    hardened = InsertSvdPerturb(["b"], GAIN)(make_conv_net()).model
    described = {value.name: value.type.tensor_type for value in hardened.graph.value_info}
    for name in ("kdguard/b/in", "kdguard/b/out"):
        assert described[name].elem_type == TensorProto.FLOAT
        assert described[name].shape.dim[1].dim_value == 8


def test_foreign_functions_and_reserved_names_are_refused() -> None:
    """A body under our name that does nothing would pass for protection."""
    model = make_conv_net()
    identity = [helper.make_node("Identity", ["X"], ["Y"])]
    function = helper.make_function(DOMAIN, "SvdPerturb", ["X"], ["Y"], identity, [helper.make_opsetid("", 18)])
    model.functions.append(function)
    with pytest.raises(PreconditionError, match="not this version's"):
        InsertSvdPerturb(["b"], GAIN)(model)
    reserved = make_conv_net()
    reserved.graph.node[0].output[0] = reserved.graph.node[1].input[0] = "kdguard/b/in"
    with pytest.raises(PreconditionError, match="keeps for its own"):
        InsertSvdPerturb(["b"], GAIN)(reserved)


def test_by_operator() -> None:
    hardened = InsertSvdPerturb(attributes=GAIN, op_types=["Relu"])(make_conv_net()).model
    assert [entry.layer for entry in hardened_layers(hardened)] == ["b"]


def test_sites_have_attributes_and_placements_of_their_own() -> None:
    model = make_rich_model()
    hardened = InsertSvdPerturb(sites=SITES)(model).model
    assert full_check_problem(hardened) is None
    found = {entry.layer: entry for entry in hardened_layers(hardened)}
    assert {layer: entry.placement for layer, entry in found.items()} == {"b": "paired", "d": "in-path"}
    for site in SITES:
        moved, clean = (tapped(m, site.layer)[1] for m in (hardened, model))
        expected = reference.svd_perturb(clean, site.attributes)
        sure = (expected.doubt > 1e-5).reshape(1, 1, *clean.shape[2:]).repeat(clean.shape[1], 1)
        assert np.mean(sure) > 0.95
        assert np.abs(moved - expected.Y)[sure].max() < 1e-4 * np.abs(expected.Y).max()
        assert found[site.layer].attributes["pattern"] == [float(np.float32(x)) for x in site.attributes.pattern]


def test_sites_twice_change_nothing_and_others_are_refused() -> None:
    once = InsertSvdPerturb(sites=SITES)(make_rich_model()).model
    assert InsertSvdPerturb(sites=SITES)(once).model is once
    other_key = SITES[1].attributes.model_copy(update={"pattern": (*KEY[:-1], 0.5)})
    for site in (Site("b", other_key), Site("b", SITES[1].attributes, "in-path")):
        with pytest.raises(PreconditionError, match="'b' is already hardened"):
            InsertSvdPerturb(sites=[site])(once)


def test_globs_and_sites_together() -> None:
    """Globs choose layers for the common attributes; a layer's own site goes first."""
    hardened = InsertSvdPerturb(["[bc]"], GAIN, sites=SITES)(make_rich_model()).model
    gains = {entry.layer: (entry.attributes["gain"], entry.placement) for entry in hardened_layers(hardened)}
    assert gains == {"b": (9.0, "paired"), "c": (10.0, "paired"), "d": (pytest.approx(0.3), "in-path")}


def test_refusals() -> None:
    with pytest.raises(PreconditionError, match="'relu_99' is no feature map"):
        InsertSvdPerturb(sites=[*SITES, Site("relu_99", GAIN)])(make_conv_net())
    with pytest.raises(PreconditionError, match="'b' has two sites"):
        InsertSvdPerturb(sites=[*SITES, Site("b", GAIN)])(make_conv_net())
    with pytest.raises(PreconditionError, match="opset 13"):
        InsertSvdPerturb(["b"], GAIN)(make_conv_net(opset=13))
    with pytest.raises(UserError, match=r"matches none of the 5 feature maps \(a, b, c, d, tail\)"):
        InsertSvdPerturb(["relu_99"], GAIN)(make_conv_net())
    with pytest.raises(UserError, match="--op-type 'Gelu'"):
        InsertSvdPerturb(attributes=GAIN, op_types=["Gelu"])(make_conv_net())
    with pytest.raises(UserError, match="no layers asked for"):
        InsertSvdPerturb(attributes=GAIN)(make_conv_net())
    foreign = make_conv_net()
    foreign.opset_import.append(helper.make_opsetid(DOMAIN, 7))
    with pytest.raises(PreconditionError, match="version 7"):
        InsertSvdPerturb(["b"], GAIN)(foreign)


def test_same_input_same_bytes() -> None:
    first, second = (
        InsertSvdPerturb(["b", "d"], GAIN)(make_rich_model()).model.SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def test_runs_at_every_optimisation_level() -> None:
    """Inlining and folding the function must not change what it computes."""
    import onnxruntime

    hardened = InsertSvdPerturb(["b", "d"], GAIN)(make_rich_model()).model
    outputs = []
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            hardened.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, {"image": IMAGE})[0])
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], atol=1e-5)
