"""What a box says of itself: strict, and safe names only."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kdguard.export.files import sha256_of_file
from kdguard.export.onnx_files import model_files, sha256_of_model
from kdguard.runtime.box.contents import Augmentation, BoxContents, Hashes, Piece, SealedFile, is_safe_location
from tests.large_model import write_large_teacher

SHA = "0" * 64
SMALLEST = {"kdguard_version": "1", "hardened_sha256": SHA, "holders": [SHA], "model": {"pieces": []}}


@pytest.mark.parametrize(
    "name", ["weights.bin", "a/b.bin", "t.onnx.data", "onnx__MatMul_7", "Gewichte ä.bin", "x" * 255]
)
def test_safe_locations(name: str) -> None:
    assert is_safe_location(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../w", "a/../../w", "/w", "//w", "./w", "a//w", "a/"),
        *(
            ".bashrc",
            "..data",
            "a/.ssh",
            "numpy.py",
            "numpy/__init__.py",
            "torch.SO",
            "C:w",
            "C:/w",
            "a\\w",
            "\\\\h\\w",
            "w\0",
            "w\n",
            "\ud800",
            "x" * 256,
            "ä" * 128,
        ),
    ],
)
def test_locations_that_leave_the_folder_or_have_two_spellings(name: str) -> None:
    assert not is_safe_location(name)
    with pytest.raises(ValidationError):
        BoxContents.model_validate({**SMALLEST, "data": {name: {"pieces": []}}})


def test_comes_back_from_its_line() -> None:
    contents = BoxContents(
        kdguard_version="0.0",
        hardened_sha256=SHA,
        holders=[SHA],
        model=SealedFile(pieces=[Piece(length=3), Piece(length=4, source=0, offset=7)]),
        data={"b": SealedFile(pieces=[]), "a": SealedFile(pieces=[Piece(length=1)])},
        augmentation=Augmentation(hint_taps=["t"], views=[0, 7], hint_weight=0.5),
        gate_key=bytes(range(256)),
    )
    line = contents.line()
    assert line.count(b"\n") == 1
    assert BoxContents.model_validate_json(line) == contents
    assert contents.names == BoxContents.model_validate_json(line).names == [None, "b", "a"]
    assert [file.size for file in contents.files] == [7, 0, 1]
    assert [file.sealed_size for file in contents.files] == [3, 0, 1]


def test_the_gates_key_is_not_shown() -> None:
    contents = BoxContents.model_validate({**SMALLEST, "gate_key": b"hunter2"})
    assert "hunter2" not in repr(contents)
    assert "hunter2" not in str(contents)


@pytest.mark.parametrize(
    "wrong",
    [
        {"unknown": 1},
        {"holders": []},
        {"hardened_sha256": "A" * 64},
        {"model": {"pieces": [{"length": 0}]}},
        {"model": {"pieces": [{"length": 1, "offset": -1}]}},
        {"gate_key": b""},
        {"gate_key": b"x" * (2**16 + 1)},
        {"augmentation": {"views": [8]}},
        {"augmentation": {"views": [-1]}},
        {"augmentation": {"hint_weight": -1}},
        {"augmentation": {"hint_weight": float("inf")}},
        {"augmentation": {"hint_taps": "b"}},
        {"augmentation": {"key": "value"}},
    ],
)
def test_strict(wrong: dict[str, object]) -> None:
    BoxContents.model_validate(SMALLEST)
    with pytest.raises(ValidationError):
        BoxContents.model_validate(SMALLEST | wrong)


def test_hashes_are_the_models(tmp_path: Path) -> None:
    path = write_large_teacher(tmp_path, 8)
    hashes = [sha256_of_file(file) for file in model_files(path)]
    assert len(hashes) == 2
    assert Hashes(sha256=hashes).teacher_sha256 == sha256_of_model(path)
    assert Hashes(sha256=hashes[:1]).teacher_sha256 == hashes[0]
