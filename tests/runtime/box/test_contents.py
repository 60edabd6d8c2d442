"""What a box says of itself: strict, and safe names only."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kdguard.export.files import sha256_of_file
from kdguard.export.onnx_files import model_files, sha256_of_model
from kdguard.runtime.box.contents import (
    MOST_DATA_FILES,
    Augmentation,
    BoxContents,
    Hashes,
    Piece,
    SealedFile,
    is_safe_location,
)
from tests.large_model import write_large_teacher

SHA = "0" * 64
SMALLEST = {"kdguard_version": "1", "hardened_sha256": SHA, "holders": [SHA], "model": {"pieces": []}}


@pytest.mark.parametrize(
    "name",
    [
        *("weights.bin", "a/b.bin", "t.onnx.data", "model.onnx_data", "onnx__MatMul_7", "Gewichte ä.bin", "W (2).BIN"),
        *("conv1.weight", "0.bias", "body.3.running_var", "deep-1/w.bin", "t.pb", "x" * 251 + ".bin"),
        *("61ac62ec-e943-11f1-bb27-02fc00000001", "61ac62ec-e943-11f1-bb27-02fc00000001.data"),
    ],
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
            "ä" * 126 + ".bin",
        ),
        *("a/b/c.bin", "a.b/c.bin", ".a/b.bin", "-rf.bin", "~/w.bin", "~.bin", "w.bin ", "w.bin.", " w.bin", "CON.bin"),
        *(
            "nul",
            "com1",
            "LPT1.data",
            "a:b.bin",
            "a\u202eb.bin",
            "\ufeffa.bin",
            "e\u0301.bin",
            "a\u2028b.bin",
            "%2e%2e/x",
        ),
        *("evil-1.0.dist-info/entry_points.txt", "evil-1.0.dist-info/w.bin", "evil.egg-info/w.bin", "x.egg-link"),
        *(
            "setup.cfg",
            "pyproject.toml",
            "pyvenv.cfg",
            "python311._pth",
            "x.pyw",
            "x.pyc",
            "usercustomize.pyo",
            "x.pth",
        ),
        *("x.so.1", "x.abi3.so", "x.exe", "x.zip", "Makefile", "makefile", "Dockerfile", "Jenkinsfile", "configure"),
        *(
            "requirements.txt",
            "autorun.inf",
            "run.sh",
            "w.bin.py",
            "o.onnx",
            "o.box",
            "o.manifest.json",
            "manifest.json",
        ),
    ],
)
def test_locations_that_leave_the_folder_or_have_two_spellings(name: str) -> None:
    assert not is_safe_location(name)
    with pytest.raises(ValidationError):
        BoxContents.model_validate({**SMALLEST, "data": {name: {"pieces": []}}})


def test_names_that_are_one_where_case_does_not_count() -> None:
    BoxContents.model_validate({**SMALLEST, "data": {"w.bin": {"pieces": []}, "v.bin": {"pieces": []}}})
    with pytest.raises(ValidationError):
        BoxContents.model_validate({**SMALLEST, "data": {"w.bin": {"pieces": []}, "W.bin": {"pieces": []}}})


def test_so_many_data_files_and_no_more() -> None:
    """Each costs a file of its own while the box is opened, even if it is empty."""
    data = {f"w_{number}": {"pieces": []} for number in range(MOST_DATA_FILES)}
    BoxContents.model_validate({**SMALLEST, "data": data})
    with pytest.raises(ValidationError, match="at most 10000 items"):
        BoxContents.model_validate({**SMALLEST, "data": {**data, "more.bin": {"pieces": []}}})


def test_comes_back_from_its_line() -> None:
    contents = BoxContents(
        kdguard_version="0.0",
        hardened_sha256=SHA,
        holders=[SHA],
        model=SealedFile(pieces=[Piece(length=3), Piece(length=4, source=0, offset=7)]),
        data={"b.bin": SealedFile(pieces=[]), "a.bin": SealedFile(pieces=[Piece(length=1)])},
        augmentation=Augmentation(hint_taps=["t"], views=[0, 7], hint_weight=0.5),
        gate_key=bytes(range(256)),
    )
    line = contents.line()
    assert line.count(b"\n") == 1
    assert BoxContents.model_validate_json(line) == contents
    assert contents.names == BoxContents.model_validate_json(line).names == [None, "b.bin", "a.bin"]
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
