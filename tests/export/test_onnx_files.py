"""Foreign model files: what is refused, in one line, before anything is read from where it must not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from kdguard.export.errors import UserError
from kdguard.export.onnx_files import default_opset, load_onnx, model_files, save_onnx, sha256_of_model
from tests.conftest import make_conv_net


def save_with_external_data(folder: Path, **entries: str) -> Path:
    """A model whose weight wa lies in weights.bin, with its external-data entries changed."""
    model = make_conv_net()
    path = folder / "model.onnx"
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0, convert_attribute=False
    )
    stored = onnx.load_model(str(path), load_external_data=False)
    for key, value in entries.items():
        for entry in stored.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value
                break
        else:
            stored.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(stored.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_round_trip_is_reproducible(tmp_path: Path) -> None:
    save_onnx(make_conv_net(), tmp_path / "a.onnx")
    save_onnx(load_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_external_data_beside_the_model_is_loaded(tmp_path: Path) -> None:
    model = load_onnx(save_with_external_data(tmp_path))
    expected = make_conv_net().graph.initializer[0]
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(model.graph.initializer[0]), onnx.numpy_helper.to_array(expected)
    )


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.onnx")
    assert "not a file" in refusal(tmp_path)
    (tmp_path / "empty.onnx").touch()
    assert "empty" in refusal(tmp_path / "empty.onnx")


@pytest.mark.parametrize("content", [b"hello, I am a text file\n", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(100)])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    assert "not an ONNX file" in refusal(tmp_path / "x.onnx")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    whole = make_conv_net().SerializeToString()
    (tmp_path / "x.onnx").write_bytes(whole[: int(len(whole) * share)])
    message = refusal(tmp_path / "x.onnx")
    assert "truncated" in message or "not a valid" in message


@pytest.mark.parametrize(
    "location",
    ["../../etc/passwd", "junk/../../x", "/etc/passwd", "..\\secret", "C:\\secret", "", "*/_ORT_MEM_ADDR_/*"],
)
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    message = refusal(save_with_external_data(tmp_path, location=location))
    assert "outside the model's folder" in message or "missing" in message


def test_external_data_behind_links_that_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(bytes(100_000))
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "link.bin").symlink_to(tmp_path / "elsewhere" / "weights.bin")
    (inside / "parent").symlink_to(tmp_path / "elsewhere")
    for location in ("link.bin", "parent/weights.bin"):
        assert "link that leaves" in refusal(save_with_external_data(inside, location=location))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "absent.bin"}, "missing"),
        ({"offset": "-4"}, "outside its data file"),
        ({"length": "999999999999"}, "outside its data file"),
        ({"offset": "many"}, "no number"),
        ({"evil": "1"}, "unknown external-data keys"),
    ],
)
def test_lying_external_data(tmp_path: Path, entries: dict[str, str], reason: str) -> None:
    assert reason in refusal(save_with_external_data(tmp_path, **entries))


def test_external_data_in_a_subgraph_is_checked_too(tmp_path: Path) -> None:
    model = make_conv_net()
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="../../etc/passwd")
    constant = onnx.helper.make_node("Constant", [], ["k"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(hidden)
    body = onnx.helper.make_graph([constant], "body", [], [onnx.helper.make_tensor_value_info("k", 1, [1])])
    switch = onnx.helper.make_node("If", ["flag"], ["unused"], then_branch=body, else_branch=body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "flag"))
    model.graph.node.insert(0, switch)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refusal(tmp_path / "x.onnx")


def test_external_data_in_a_function_is_checked_too(tmp_path: Path) -> None:
    model = make_conv_net()
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="../secret")
    constant = onnx.helper.make_node("Constant", [], ["y"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(hidden)
    opset = [onnx.helper.make_opsetid("", 18)]
    model.functions.append(onnx.helper.make_function("users", "Hidden", [], ["y"], [constant], opset))
    model.opset_import.append(onnx.helper.make_opsetid("users", 1))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refusal(tmp_path / "x.onnx")


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000, "loop"])
def test_external_data_that_cannot_be_followed(tmp_path: Path, location: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    message = refusal(save_with_external_data(tmp_path, location=location))
    assert "cannot be followed" in message or "missing" in message


def test_damaged_bytes_never_crash(tmp_path: Path) -> None:
    """Any flipped byte gives a model or a UserError, nothing else."""
    whole = bytearray(make_conv_net().SerializeToString())
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "x.onnx").write_bytes(damaged)
        try:
            load_onnx(tmp_path / "x.onnx")
        except UserError as error:
            assert "\n" not in str(error)


def test_minus_one_means_dynamic(tmp_path: Path) -> None:
    model = make_conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -1
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert not load_onnx(tmp_path / "x.onnx").graph.input[0].type.tensor_type.shape.dim[2].HasField("dim_value")


def test_hash_covers_external_data(tmp_path: Path) -> None:
    path = save_with_external_data(tmp_path)
    before = sha256_of_model(path)
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert sha256_of_model(path) != before


def test_invalid_graph(tmp_path: Path) -> None:
    model = make_conv_net()
    model.graph.node[1].input[0] = "nowhere"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert "not a valid ONNX model" in refusal(tmp_path / "x.onnx")


def test_default_opset() -> None:
    assert default_opset(make_conv_net(opset=17)) == 17
    assert default_opset(onnx.ModelProto()) == 0


def test_names_that_cannot_be_looked_up(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        load_onnx(path)
    assert model_files(path) == [path]
