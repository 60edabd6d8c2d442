"""Weights that stay in data files: read where small, kept where large, written with the model or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdguard.export import large_models
from kdguard.export.errors import UserError
from kdguard.export.large_models import data_path, is_large, outside_tensors, without_weights
from kdguard.export.onnx_files import hash_model, load_onnx, save_onnx, serialise, sha256_of_model
from tests.conftest import make_conv_net, run_onnx
from tests.large_model import load_whole, write_large_teacher

IMAGE = np.random.default_rng(0).random((1, 3, 12, 12), np.float32)


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_models, "INLINE_LIMIT", 100_000)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    (tmp_path / "teacher").mkdir()
    return write_large_teacher(tmp_path / "teacher", 160)


def test_large_weights_stay_outside_and_small_ones_come_in(teacher: Path) -> None:
    model = load_onnx(teacher)
    assert is_large(model)
    assert [tensor.name for tensor in outside_tensors(model)] == ["w0", "w1"]
    assert model.ByteSize() < 50_000
    # Moved out as well, the small ones are read again.
    moved = load_whole(teacher)
    onnx.save_model(moved, str(teacher), save_as_external_data=True, location="all.bin", size_threshold=0)
    model = load_onnx(teacher)
    assert [tensor.name for tensor in outside_tensors(model)] == ["w0", "w1"]
    axes = next(tensor for tensor in model.graph.initializer if tensor.name == "axes")
    np.testing.assert_array_equal(numpy_helper.to_array(axes), [2, 3])


def test_below_the_limit_everything_is_read(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_models, "INLINE_LIMIT", 1_000_000)
    assert not is_large(load_onnx(teacher))


def test_round_trip(teacher: Path, tmp_path: Path) -> None:
    saved = tmp_path / "copy.onnx"
    save_onnx(load_onnx(teacher), saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.onnx", "copy.onnx.data", "teacher"]
    assert data_path(saved).stat().st_nlink == 1  # onnx refuses hard links
    assert str(tmp_path).encode() not in saved.read_bytes()
    before, after = load_whole(teacher), load_whole(saved)
    assert run_onnx(after, image=IMAGE)[0].tobytes() == run_onnx(before, image=IMAGE)[0].tobytes()
    save_onnx(load_onnx(saved), tmp_path / "again.onnx")
    assert data_path(tmp_path / "again.onnx").read_bytes() == data_path(saved).read_bytes()


def test_several_data_files_and_shared_data_become_one_file(teacher: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(teacher), load_external_data=False)
    (teacher.parent / "sub").mkdir()
    (teacher.parent / "sub" / "more.bin").write_bytes((teacher.parent / "weights.bin").read_bytes())
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors["w1"].external_data[0].value = "sub/more.bin"
    shared = model.graph.initializer.add()
    shared.CopyFrom(tensors["w0"])
    shared.name = "w0_again"
    model.graph.node[4].input[1] = "w0_again"
    teacher.write_bytes(model.SerializeToString())
    save_onnx(load_onnx(teacher), tmp_path / "copy.onnx")
    assert data_path(tmp_path / "copy.onnx").stat().st_size < 2 * 4 * 160 * 160 + 4096
    first, second = (run_onnx(load_whole(path), image=IMAGE)[0] for path in (teacher, tmp_path / "copy.onnx"))
    np.testing.assert_array_equal(first, second)


def test_the_weights_being_read_are_never_replaced(teacher: Path) -> None:
    model = load_onnx(teacher)
    saved = teacher.parent / "weights.onnx"
    (teacher.parent / "weights.bin").rename(data_path(saved))
    for tensor in outside_tensors(model):
        tensor.external_data[0].value = str(data_path(saved))
    before = data_path(saved).read_bytes()
    with pytest.raises(UserError, match="where the model's weights are read from"):
        save_onnx(model, saved)
    assert data_path(saved).read_bytes() == before
    assert not saved.exists()


def test_a_full_disk_leaves_nothing(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(large_models, "_append", full)
    with pytest.raises(UserError, match="No space left"):
        save_onnx(load_onnx(teacher), tmp_path / "copy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_hashes_follow_the_weights_and_not_the_place(teacher: Path, tmp_path: Path) -> None:
    model = load_onnx(teacher)
    before = hash_model(model), sha256_of_model(teacher)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("t.onnx", "weights.bin"):
        (moved / name).write_bytes((teacher.parent / name).read_bytes())
    assert hash_model(load_onnx(moved / "t.onnx")) == before[0]
    data = bytearray((teacher.parent / "weights.bin").read_bytes())
    data[7] ^= 1
    (teacher.parent / "weights.bin").write_bytes(data)
    assert hash_model(model) != before[0]
    assert sha256_of_model(teacher) != before[1]
    assert hash_model(make_conv_net()) == hash_model(make_conv_net())


def test_one_file_cannot_hold_it(teacher: Path) -> None:
    with pytest.raises(UserError, match="more than one ONNX file holds"):
        serialise(load_onnx(teacher))


def test_checker_and_shape_inference_do_without_weights(teacher: Path) -> None:
    model = load_onnx(teacher)
    onnx.checker.check_model(without_weights(model), full_check=True)
    small = make_conv_net()
    assert without_weights(small) is small


def test_large_constants_inside_nodes_are_refused(teacher: Path) -> None:
    model = onnx.load_model(str(teacher), load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    constant = onnx.helper.make_node("Constant", [], ["w1"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensors["w1"])
    model.graph.initializer.remove(tensors["w1"])
    model.graph.node.insert(0, constant)
    teacher.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="constants inside the model's nodes"):
        load_onnx(teacher)
