"""Weights from disk: safetensors, or torch files read with `weights_only=True`. Nothing is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from kdguard.export.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

_TORCH_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin"}
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Keys under which training scripts of this field keep the weights, the best ones first."""


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a flat name-to-tensor mapping.

    Raises:
        UserError: missing file, unknown suffix, damaged file, or a torch file that holds anything
            but tensors and plain containers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _load_torch(path)
    raise UserError(
        f"{path}: weights must be .safetensors or a torch file ({', '.join(sorted(_TORCH_SUFFIXES))}); "
        "convert them with safetensors.torch.save_file"
    )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or a truncated one ({error})") from error


def _load_torch(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than tensors, and kdguard never unpickles objects; save its state_dict "
            "with safetensors.torch.save_file and use that"
        ) from error
    except Exception as error:  # the restricted unpickler lets KeyError and others of a damaged file through
        raise UserError(f"{path}: not a torch weights file, or a truncated one ({first_line(error)})") from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path}: holds no mapping of names to tensors; save the model's state_dict()")
    return content
