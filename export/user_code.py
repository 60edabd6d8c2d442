"""Importing what the user named: factories of teachers, functions that prepare data."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdguard.export.errors import UserError, first_line
from kdguard.export.files import real_path

if TYPE_CHECKING:
    from torch import nn


def import_callable(source: str, search_path: Path | None = None) -> Callable[..., Any]:
    """Import `package.module:name`.

    Args:
        search_path: folder put first on the module search path while importing.

    Raises:
        UserError: malformed, cannot be imported, or no callable of that name.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source):
        raise UserError(f"{source!r} is not of the form package.module:name (an ONNX file needs no export)")
    module_name, name = source.split(":")
    folder = str(real_path(search_path or Path.cwd()))
    _forget_namesake(module_name.split(".")[0], folder)
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module raises is the user's to read, in one line
        raise UserError(
            f"cannot import {module_name!r} from {folder} or the environment: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(folder)
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{module_name!r} has no callable {name!r}")
    return found


def _forget_namesake(top_level: str, folder: str) -> None:
    """Drop a cached module of the same name that came from another folder than the one asked for."""
    spec = PathFinder.find_spec(top_level, [folder])
    cached = sys.modules.get(top_level)
    if top_level in sys.stdlib_module_names:
        return
    if spec and spec.origin and cached and getattr(cached, "__file__", None) != spec.origin:
        for name in [n for n in sys.modules if n.split(".")[0] == top_level]:
            del sys.modules[name]


def build_module(source: str, search_path: Path | None = None) -> nn.Module:
    """Call the factory that `source` names, ready for inference.

    Raises:
        UserError: as `import_callable`, or it raises, or its result is no torch module.
    """
    from torch import nn

    try:
        model = import_callable(source, search_path)()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{source} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{source} returned {type(model).__name__}, not a torch.nn.Module")
    return model.eval()
