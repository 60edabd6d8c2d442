"""Engines, built for real by TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.export.files import sha256_of_file
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.engines import ENGINES
from kdguard.runtime.engines.build import ask, build_engine, check_builder
from kdguard.runtime.engines.manifest import check_engine, manifest_path, read_manifest
from kdguard.runtime.engines.options import BuildOptions
from kdguard.runtime.engines.prepare import written_out
from kdguard.runtime.engines.shapes import Size, SizeRange
from kdguard.runtime.engines.vendor import Request
from kdguard.runtime.gpu import compute_capability
from tests.conftest import make_conv_net, make_model
from tests.graph_passes.key_gate.gate_models import secret
from tests.graph_passes.test_write_out_functions import hardened
from tests.large_model import write_large_teacher
from tests.runtime.test_float_edges import computing

CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
SIZES = SizeRange(Size(64, 64), Size(96, 128), Size(256, 256))
RTX = ENGINES["tensorrt-rtx"]


@pytest.fixture(scope="module", autouse=True)
def vendor() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = hardened(make_conv_net())
    write_card(model, CARD)
    path = tmp_path_factory.mktemp("model") / "hardened.onnx"
    save_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def engine(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "hardened.engine"
    build_engine(model_file, onnx.load(model_file), CARD, path, RTX, SIZES)
    return path


def test_engine_and_manifest(engine: Path, model_file: Path) -> None:
    found = read_manifest(engine)
    assert (found.kind, found.precision, found.hardened) == ("tensorrt-rtx", "fp32", "hardened.onnx")
    assert found.hardened_sha256 == sha256_of_file(model_file)
    assert found.engine_sha256 == sha256_of_file(engine)
    assert [(t.name, t.dtype, t.shape) for t in found.inputs] == [("image", "float", [-1, 3, -1, -1])]
    assert [t.name for t in found.outputs] == ["restored"]
    assert found.shapes["image"] == [[1, 3, 64, 64], [1, 3, 96, 128], [1, 3, 256, 256]]
    assert engine.stat().st_size > 10_000


def test_half_precision(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.engine"
    found = build_engine(model_file, onnx.load(model_file), CARD, path, RTX, SIZES, BuildOptions("fp16"))
    assert (found.precision, found.inputs[0].dtype, found.outputs[0].dtype) == ("fp16", "float", "float")


def test_a_fourier_transform(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["image", "last"], ["wide"]),
        helper.make_node("DFT", ["wide"], ["spectrum"], axis=2),
        helper.make_node("ReduceSum", ["spectrum", "last"], ["restored"], keepdims=0),
    ]
    model = make_model(nodes, {"last": np.array([-1])})
    save_onnx(model, tmp_path / "model.onnx")
    found = build_engine(tmp_path / "model.onnx", model, CARD, tmp_path / "e.engine", RTX, SIZES)
    assert [t.name for t in found.outputs] == ["restored"]


def test_weights_in_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdguard.export.large_models.INLINE_LIMIT", 2**12)
    teacher = load_onnx(write_large_teacher(tmp_path, 256))
    model = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=10.0))(teacher).model
    save_onnx(model, tmp_path / "hardened.onnx")
    found = build_engine(
        tmp_path / "hardened.onnx", load_onnx(tmp_path / "hardened.onnx"), CARD, tmp_path / "e.engine", RTX, SIZES
    )
    assert found.precision == "fp32"
    # The weights are in it: two matrices of 256 x 256.
    assert (tmp_path / "e.engine").stat().st_size > 2 * 4 * 256**2
    with pytest.raises(UserError, match="fp16: the model keeps its weights in data files"):
        written_out(model, "fp16")


def test_what_the_vendor_cannot_build_leaves_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unique", ["image"], ["values"], axis=0),
        helper.make_node("Add", ["image", "values"], ["restored"]),
    ]
    model = make_model(nodes, {})
    save_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"model: it (has no|does not take) operator Unique( and does not say why)?$"):
        build_engine(tmp_path / "model.onnx", model, CARD, tmp_path / "none.engine", RTX, SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("damage", ["a bit", "the end", "everything"])
def test_a_damaged_engine(engine: Path, tmp_path: Path, damage: str) -> None:
    content = bytearray(engine.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
    copy = tmp_path / "copy.engine"
    copy.write_bytes({"a bit": content, "the end": content[:-1], "everything": b""}[damage])
    manifest_path(copy).write_bytes(manifest_path(engine).read_bytes())
    with pytest.raises(UserError, match="is not the file that its manifest speaks of"):
        read_manifest(copy)


def test_missing_and_broken_manifests(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no engine"):
        read_manifest(tmp_path / "none.engine")
    copy = tmp_path / "copy.engine"
    copy.write_bytes(engine.read_bytes())
    with pytest.raises(UserError, match=r"has no manifest copy\.engine\.json beside it"):
        read_manifest(copy)
    manifest_path(copy).write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        read_manifest(copy)
    manifest_path(copy).write_text("[" * 100_000)
    with pytest.raises(UserError, match="is no JSON"):
        read_manifest(copy)
    manifest_path(copy).unlink()
    manifest_path(copy).mkdir()
    with pytest.raises(UserError, match="is no file, and should be the manifest"):
        read_manifest(copy)
    manifest_path(copy).rmdir()
    manifest_path(copy).write_text(json.dumps({"engine": "copy.engine"}))
    with pytest.raises(UserError, match="is no manifest of an engine: engine_sha256"):
        read_manifest(copy)


def test_engines_of_another_version_or_gpu(engine: Path, tmp_path: Path) -> None:
    found = read_manifest(engine)
    assert check_engine(engine, found.vendor_version, "8.9") == found
    with pytest.raises(MissingDependencyError, match=r"built by TensorRT-RTX .* and 99\.0 is installed"):
        check_engine(engine, "99.0", "8.9")
    copy = tmp_path / engine.name
    copy.write_bytes(engine.read_bytes())

    def says(**changes: object) -> None:
        manifest_path(copy).write_text(found.model_copy(update=changes).model_dump_json())

    says(kind="tensorrt", gpus=["8.6"], later_gpus=False)
    with pytest.raises(MissingDependencyError, match=r"capability 8\.6 and this one has 8\.9; build it again here$"):
        check_engine(copy, found.vendor_version, "8.9")
    says(kind="tensorrt", gpus=["8.0"], later_gpus=True, version_compatible=True)
    assert check_engine(copy, "99.0", "8.9").later_gpus


def test_an_engine_that_asks_for_no_gpu_is_not_for_the_oldest(engine: Path) -> None:
    version = read_manifest(engine).vendor_version
    assert check_engine(engine, version, "12.1").gpus == ["8.0", "8.6", "8.9", "12.0"]
    line = r"GPUs of compute capability 8\.0, .* and later and this one has 7\.5; build it again with --gpu 7\.5"
    with pytest.raises(MissingDependencyError, match=line):
        check_engine(engine, version, "7.5")


def test_an_engine_for_one_gpu_is_another_engine(engine: Path, model_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.engine"
    found = build_engine(model_file, onnx.load(model_file), CARD, other, RTX, SIZES, BuildOptions(gpus=["12.1"]))
    assert (found.gpus, found.later_gpus) == (["12.1"], False)
    assert check_engine(other, found.vendor_version, "12.1") == found
    with pytest.raises(MissingDependencyError, match=r"capability 12\.1 and this one has 8\.9; .* --gpu 8\.9$"):
        check_engine(other, found.vendor_version, "8.9")
    # The builder took notice: what it holds for this GPU is not what it holds for older ones.
    assert abs(other.stat().st_size - engine.stat().st_size) > 1000


def test_the_builder_says_why_it_cannot(model_file: Path, tmp_path: Path) -> None:
    """TensorRT-RTX has no product of float matrices on Turing, and the op needs one."""
    with pytest.raises(
        UserError, match=r"^TensorRT-RTX cannot build this model: .*FP32 GEMM is not supported.*; leave --gpu 7\.5 out"
    ):
        build_engine(model_file, onnx.load(model_file), CARD, tmp_path / "e", RTX, SIZES, BuildOptions(gpus=["7.5"]))
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_the_vendor_does_not_know(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--gpu 9\.0: it builds for compute capabilities 7\.5, .*12\.1 only; give one of"
    ):
        build_engine(
            model_file, onnx.load(model_file), CARD, tmp_path / "e", RTX, SIZES, BuildOptions(gpus=["8.9", "9.0"])
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(compute_capability() is not None, reason="there is a GPU")
def test_a_vendor_that_needs_a_gpu() -> None:
    here = dataclasses.replace(ENGINES["tensorrt"], package="onnx")
    with pytest.raises(MissingDependencyError, match="TensorRT builds on the GPU that the engine is for"):
        check_builder(here)


def test_an_engine_of_this_vendor_takes_no_kernel(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--plugin: TensorRT-RTX has no means to take a kernel into an engine"):
        build_engine(model_file, onnx.load(model_file), CARD, tmp_path / "e", RTX, SIZES, BuildOptions(plugin=True))


def test_a_key_gate(model_file: Path, tmp_path: Path) -> None:
    """The key, optional in the file, is an input of the engine, and the hint an output."""
    gated = gate_model(onnx.load(model_file), [secret(0)], ["b"])
    save_onnx(gated, tmp_path / "gated.onnx")
    found = build_engine(tmp_path / "gated.onnx", gated, CARD, tmp_path / "e.engine", RTX, SIZES)
    assert [(t.name, t.shape) for t in found.inputs][1:] == [("kdguard_key", [1024])]
    assert [(t.name, t.shape) for t in found.outputs][1:] == [("kdguard_hint/b", [-1, 4, -1, -1])]
    assert found.shapes["kdguard_key"] == [[1024]] * 3


def test_types_that_engines_cannot_be_fed(tmp_path: Path) -> None:
    model = make_conv_net(dtype=TensorProto.DOUBLE)
    save_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx: 'image' is double, and .* export the model with float"):
        build_engine(tmp_path / "model.onnx", model, CARD, tmp_path / "e.engine", RTX, SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_bfloat16_gets_float_ends(tmp_path: Path) -> None:
    model = computing()
    save_onnx(model, tmp_path / "model.onnx")
    found = build_engine(tmp_path / "model.onnx", model, CARD, tmp_path / "e.engine", RTX, SIZES)
    assert (found.precision, found.inputs[0].dtype, found.outputs[0].dtype) == ("bf16", "float", "float")
    assert read_manifest(tmp_path / "e.engine") == found


def test_a_file_that_cannot_be_written_is_not_the_vendors_fault(model_file: Path, tmp_path: Path) -> None:
    shapes = {"image": [[1, 3, 64, 64]] * 3}
    plain = tmp_path / "plain.onnx"
    onnx.save(written_out(onnx.load(model_file)), plain)
    asked = Request(package="tensorrt_rtx", model=plain, engine=tmp_path / "absent" / "e", shapes=shapes)
    with pytest.raises(UserError, match=r"^cannot read or write .*/absent/e: No such file or directory"):
        ask(asked, RTX, tmp_path)


def test_a_package_that_is_not_whole(tmp_path: Path) -> None:
    asked = Request(package="no_such_package", model=tmp_path, engine=tmp_path, shapes={})
    with pytest.raises(MissingDependencyError, match=r"^TensorRT-RTX: no_such_package is not there or not whole"):
        ask(asked, RTX, tmp_path)


def test_a_link_to_an_engine(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "current.engine").symlink_to(engine)
    assert read_manifest(tmp_path / "current.engine") == read_manifest(engine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpus", ["abc"]),
        ("gpus", []),
        ("shapes", {}),
        ("shapes", {"image": [[1, 3, 64, 64]]}),
        ("shapes", {"image": [[1, 3, 64]] * 3}),
        ("inputs", []),
        ("inputs", [{"name": "image", "dtype": "bf16", "shape": [1, 3, 64, 64]}]),
        ("outputs", []),
    ],
)
def test_what_a_manifest_says_is_checked(engine: Path, tmp_path: Path, field: str, value: object) -> None:
    copy = tmp_path / "copy.engine"
    copy.write_bytes(engine.read_bytes())
    content = json.loads(manifest_path(engine).read_text()) | {field: value}
    manifest_path(copy).write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no manifest of an engine"):
        read_manifest(copy)
