"""Weights files: tensors only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdguard.export.checkpoint import load_state_dict
from kdguard.export.errors import UserError

WEIGHTS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


class Bomb:
    """Would run code if anybody unpickled it."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("exploded"),)


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[k], WEIGHTS[k]) for k in WEIGHTS)


def test_safetensors_and_torch_files(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert same(load_state_dict(tmp_path / "w.safetensors"))
    for name, content in (
        ("flat.pth", WEIGHTS),
        ("wrapped.pt", {"state_dict": WEIGHTS, "epoch": 3}),
        ("ema.ckpt", {"params": {"a": torch.zeros(3)}, "params_ema": WEIGHTS}),
    ):
        torch.save(content, tmp_path / name)  # noqa: TID251  makes the file under test
        assert same(load_state_dict(tmp_path / name))


def test_pickled_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, tmp_path / "evil.pth")  # noqa: TID251  makes the file under test
    with pytest.raises(UserError, match="never unpickles"):
        load_state_dict(tmp_path / "evil.pth")
    assert not Path("exploded").exists()


def test_bad_files(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-5])
    torch.save(WEIGHTS, tmp_path / "w.pth")  # noqa: TID251  makes the file under test
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-200])
    torch.save([1, 2], tmp_path / "list.pth")  # noqa: TID251  makes the file under test
    (tmp_path / "w.npz").touch()
    for name, reason in (
        ("none.pth", "no such file"),
        ("cut.safetensors", "truncated"),
        ("cut.pth", "truncated"),
        ("list.pth", "no mapping"),
        ("w.npz", "must be .safetensors"),
    ):
        with pytest.raises(UserError, match=reason):
            load_state_dict(tmp_path / name)
