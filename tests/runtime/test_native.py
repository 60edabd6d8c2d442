"""The native library for onnxruntime: the same op as the function's, and used only where it covers everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import MissingDependencyError
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate import key_tensor
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.one_op import one_op_model
from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.graph_passes.substitute_op import SubstituteOp
from kdguard.runtime.bench.op_alone import find_cases, measure_case
from kdguard.runtime.bench.op_share import measure_share
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.engines.shapes import Size
from kdguard.runtime.gpu_check.subjects import VARIANTS, feature_maps, worst
from kdguard.runtime.kernels.build import FOLDER_VARIABLE, build_kernels_on_cpu, build_library, is_whole, library_path
from kdguard.runtime.native import obstacle, register
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net, photograph
from tests.graph_passes.key_gate.gate_models import secret

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ALL = {**VARIANTS, "stride": {"stride": 3}, "not shared": {"shared": False}}
CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
IMAGE = photograph(40).astype(np.float32) / 255
HARDENED = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(rank=2, gain=10.0))(make_conv_net()).model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library in it, under the name that kdguard looks for."""
    made = tmp_path_factory.mktemp("native")
    try:
        build_library(made / library_path().name)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return made


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return library_path()


def op_session(
    attributes: SvdPerturbAttributes, dtype: int, rank: int, library: Path | None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """X -> SvdPerturb -> Y, and restored again -> Z where the change is handed out."""
    model = one_op_model(attributes, rank=rank, dtype=dtype, restored=attributes.shared)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("shape", [(2, 17, 23, 31), (1, 64, 40), (1, 12, 5, 6, 7), (1, 130, 6, 6)])
def test_does_what_the_reference_does(library: Path, variant: str, shape: tuple[int, ...]) -> None:
    attributes = SvdPerturbAttributes(**{"rank": 4, "gain": 10.0, **ALL[variant]})
    maps = feature_maps(shape)
    found, other = op_session(attributes, TensorProto.FLOAT, len(shape), library).run(None, {"X": maps})
    assert worst(found, svd_perturb(maps, attributes), shape) < 1e-5
    if attributes.shared:
        assert np.abs(other - maps).max() < 2e-6 * np.abs(found).max()
    else:
        assert other.tolist() == [0.0]


@pytest.mark.parametrize("sides", [(1100, 1020), (1101, 1021)], ids=["even", "odd"])
@pytest.mark.parametrize("shared", [False, True])
def test_maps_that_no_cache_holds_are_written_past_it(library: Path, shared: bool, sides: tuple[int, int]) -> None:
    attributes = SvdPerturbAttributes(rank=3, gain=10.0, shared=shared)
    shape = (1, 9, *sides)  # 40 MB; a last tile that is not whole, a last channel beside its four
    maps = feature_maps(shape)
    found, other = op_session(attributes, TensorProto.FLOAT, len(shape), library, threads=2).run(None, {"X": maps})
    assert worst(found, svd_perturb(maps, attributes), shape) < 1e-5
    if shared:
        assert np.abs(other - maps).max() < 2e-6 * np.abs(found).max()


def test_an_infinity_does_not_change(library: Path) -> None:
    session = op_session(SvdPerturbAttributes(rank=3, gain=50.0), TensorProto.FLOAT, 4, library)
    maps = feature_maps((1, 8, 64, 48))  # whole tiles, which are written without a buffer
    maps[0, 2, 1, 3] = np.inf
    found, restored = session.run(None, {"X": maps})
    assert np.array_equal(restored, maps)
    assert found[0, 2, 1, 3] == np.inf


@pytest.mark.parametrize("variant", ALL)
def test_half_precision(library: Path, variant: str) -> None:
    attributes = SvdPerturbAttributes(**{"rank": 4, "gain": 10.0, **ALL[variant]})
    shape = (2, 17, 23, 31)
    maps = feature_maps(shape, np.float16)
    found, other = op_session(attributes, TensorProto.FLOAT16, 4, library).run(None, {"X": maps})
    assert worst(found, svd_perturb(maps, attributes), shape) < 2e-3
    if attributes.shared:
        assert np.array_equal(other, maps)


def test_threads_do_not_change_a_bit(library: Path) -> None:
    attributes = SvdPerturbAttributes(rank=4, gain=10.0)
    maps = feature_maps((1, 20, 61, 127))
    one, two, three = (
        op_session(attributes, TensorProto.FLOAT, 4, library, threads).run(["Y"], {"X": maps})[0]
        for threads in (1, 2, 3)
    )
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)


def test_makes_no_nan_and_loses_none(library: Path) -> None:
    session = op_session(SvdPerturbAttributes(rank=3, gain=50.0), TensorProto.FLOAT, 4, library)
    maps = feature_maps((2, 6, 9, 8))
    maps[0, 2, 1, 3] = np.nan
    maps[1] *= 1e25  # squares overflow: the op steps aside for this image
    found, restored = session.run(None, {"X": maps})
    assert np.isnan(found).sum() == np.isnan(restored).sum() == 1
    assert np.array_equal(found[1], maps[1])
    maps[0, 2, 1, 3] = np.inf
    found, restored = session.run(None, {"X": maps})
    assert not np.isnan(found).any()
    assert not np.isnan(restored).any()
    assert restored[0, 2, 1, 3] == np.inf
    for constant in (0.0, 2.5):
        still = np.full((1, 5, 3, 3), constant, np.float32)
        assert np.allclose(session.run(None, {"X": still})[0], constant * 50.0, rtol=1e-5)
    single = feature_maps((1, 3, 1, 1))
    assert np.allclose(session.run(None, {"X": single})[0], 50.0 * single, rtol=1e-5)


def test_a_session_uses_it(library: Path) -> None:
    """Native and by function: the same image, and the same misleading tap."""
    native, function = (RestorationSession(HARDENED, CARD, taps=["b"], kernels=k) for k in ("auto", "function"))
    assert (native.kernels, function.kernels) == ("native", "function")
    tensor = IMAGE.transpose(2, 0, 1)[None]
    for ours, theirs in zip(native.run(tensor), function.run(tensor), strict=True):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
        assert not np.array_equal(ours, np.zeros_like(ours))
    assert RestorationSession(make_conv_net(), CARD).kernels == "none"


def test_the_shipped_teacher(library: Path, quickstart_teacher: Path) -> None:
    teacher = load_onnx(quickstart_teacher)
    hardened = InsertSvdPerturb(["relu_*"], SvdPerturbAttributes(rank=4, gain=10.0))(teacher).model
    outputs = [
        RestorationSession(hardened, CARD.model_copy(update=_names(teacher)), kernels=k).restore(IMAGE)
        for k in ("native", "function")
    ]
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5


def _names(model: onnx.ModelProto) -> dict[str, str]:
    return {"input_name": model.graph.input[0].name, "output_name": model.graph.output[0].name}


def test_the_profile_tells_our_nodes(library: Path) -> None:
    asked = Subject(Path("t.onnx"), Path("h.onnx"), (make_conv_net(), HARDENED), CARD, Size(64, 64))
    found = measure_share(asked, "cpu", 1, 3)
    assert found.method == "profiler"
    assert 0 < found.share < 1
    assert measure_case(find_cases(asked, "cpu", 1)[0][0], HARDENED, "cpu", 1, 1).kernels == "native"


def test_without_a_library_the_functions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert RestorationSession(HARDENED, CARD).kernels == "function"
    with pytest.raises(MissingDependencyError, match=r"there is no library at .*; `make native`"):
        RestorationSession(HARDENED, CARD, kernels="native")


def test_a_substituted_function_is_not_overridden(library: Path) -> None:
    """Who measures an attack that replaces our functions must not measure our kernels."""
    attacked = SubstituteOp()(HARDENED).model
    assert "function SvdPerturb of its own" in obstacle(attacked, CPU)
    assert RestorationSession(attacked, CARD).kernels == "function"


def test_what_is_not_covered(library: Path) -> None:
    wide = InsertSvdPerturb(["b"], SvdPerturbAttributes(gain=3.0))(make_conv_net(width=513)).model
    assert obstacle(wide, CPU) == "'b' has 513 channels, and the library takes up to 512"
    assert RestorationSession(wide, CARD).kernels == "function"
    narrow = make_conv_net()
    next(v for v in narrow.graph.input).type.tensor_type.elem_type = TensorProto.BFLOAT16
    for tensor in narrow.graph.initializer:
        tensor.CopyFrom(
            helper.make_tensor(
                tensor.name, TensorProto.BFLOAT16, tensor.dims, onnx.numpy_helper.to_array(tensor).ravel()
            )
        )
    narrow.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    assert "'b' is bfloat16" in obstacle(InsertSvdPerturb(["b"])(narrow).model, CPU)
    odd = onnx.ModelProto.FromString(HARDENED.SerializeToString())
    perturb = next(node for node in odd.graph.node if node.op_type == "SvdPerturb")
    next(a for a in perturb.attribute if a.name == "rank").i = 17
    assert "attributes that the library does not take" in obstacle(odd, CPU)
    assert "was built without CUDA; build it again where nvcc is there" in obstacle(HARDENED, CUDA)
    other = "DmlExecutionProvider"
    assert obstacle(HARDENED, other) == f"the library has no kernels for {other}"
    assert obstacle(HARDENED, CPU) == ""


def test_what_is_not_trusted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a library runs it: one that others may write, or that is not what was built, is left alone."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    mine = library_path()
    content = (folder / mine.name).read_bytes()
    mine.write_bytes(content[:-1])
    with pytest.raises(MissingDependencyError, match="is not what was built"):
        RestorationSession(HARDENED, CARD, kernels="native")
    mine.write_bytes(content)
    assert is_whole(mine)
    assert RestorationSession(HARDENED, CARD).kernels == "native"
    mine.chmod(0o666)
    with pytest.raises(MissingDependencyError, match="may be written by others"):
        RestorationSession(HARDENED, CARD, kernels="native")
    assert RestorationSession(HARDENED, CARD).kernels == "function"
    mine.chmod(0o600)
    mine.write_bytes(mine.read_bytes()[:-1000])
    assert RestorationSession(HARDENED, CARD).kernels == "function"


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert RestorationSession(HARDENED, CARD).kernels == "function"


@pytest.mark.parametrize("kind", ["text", "without our symbol"])
def test_a_file_that_is_no_such_library(kind: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    if kind == "text":
        broken.write_text("not a library")
    else:
        build_kernels_on_cpu(broken)
    with pytest.raises(MissingDependencyError, match=r"broken\.so cannot be loaded into this onnxruntime"):
        register(onnxruntime.SessionOptions(), HARDENED, CPU, library=broken)
    if kind == "text":
        with pytest.raises(MissingDependencyError, match=r"cannot be looked into: .*broken\.so"):
            register(onnxruntime.SessionOptions(), HARDENED, CUDA, library=broken)


def test_two_libraries_of_one_domain(library: Path, tmp_path: Path) -> None:
    """onnxruntime refuses the second one; that is a message and no crash."""
    second = tmp_path / "second.so"
    second.write_bytes(library.read_bytes())
    options = onnxruntime.SessionOptions()
    assert register(options, HARDENED, CPU, library=library) == "native"
    assert register(options, HARDENED, CPU, library=second) == "native"
    with pytest.raises(Exception, match=r"(?i)domain|registr|already"):
        onnxruntime.InferenceSession(HARDENED.SerializeToString(), options, providers=[CPU])


def test_behind_a_key_gate(library: Path) -> None:
    """The strength is computed, and the gate's own functions lie in a domain that the library does not claim."""
    in_path = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(rank=2, gain=10.0), placement="in-path")
    hardened = in_path(make_conv_net()).model
    gated = gate_model(hardened, [secret(0)], ["c"])
    assert obstacle(gated, CPU) == ""
    native = RestorationSession(gated, CARD, taps=["kdguard_hint/c"], kernels="native")
    tensor = IMAGE.transpose(2, 0, 1)[None]
    restored, hint = native.run(tensor)
    assert np.array_equal(restored, RestorationSession(hardened, CARD, kernels="native").run(tensor)[0])
    assert len(hint) == 0
    restored, hint = native.run(tensor, {"kdguard_key": key_tensor(secret(0))})
    assert np.array_equal(restored, RestorationSession(make_conv_net(), CARD).run(tensor)[0])
    assert hint.shape == (1, 4, 40, 40)
