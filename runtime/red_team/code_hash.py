"""Hashes of the code that results depend on, for the keys that they are kept under."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

REGISTRY = "kdguard.runtime.recipes"
"""Not followed: it imports every recipe, and a new one changes nothing about the others."""


def modules_of(found: type) -> tuple[str, ...]:
    """The modules that a class and its bases stand in, those of other packages left out."""
    return tuple(cls.__module__ for cls in found.__mro__ if cls.__module__.startswith("kdguard."))


@cache
def hash_code(*modules: str) -> str:
    """Hash of modules and of all modules of ours that they import, directly or not.

    The same on every machine that has the same code, wherever it lies.

    Args:
        modules: full names, `kdguard.runtime.strip` say.

    Raises:
        FileNotFoundError: a module that is not there.
    """
    sources: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in sources:
            continue
        sources[module] = _source(module)
        waiting += [name for name in _imports(sources[module]) if name != REGISTRY and _file_of(name).is_file()]
    digest = hashlib.sha256()
    for module, source in sorted(sources.items()):
        digest.update(f"{module} {len(source)} ".encode() + source)
    return digest.hexdigest()[:32]


def _source(module: str) -> bytes:
    return _file_of(module).read_bytes()


def _file_of(module: str) -> Path:
    """Where a module of that name would lie, found without importing it: some import torch."""
    _, layer, *rest = module.split(".")
    path = Path(import_module(f"kdguard.{layer}").__path__[0]).joinpath(*rest)
    package = path / "__init__.py"
    return package if package.is_file() else path.with_name(f"{path.name}.py")


def _imports(source: bytes) -> Iterator[str]:
    """Names that may be modules of ours, imports inside functions included, those for type checkers left out."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith("kdguard.") and name.count(".") > 1)
