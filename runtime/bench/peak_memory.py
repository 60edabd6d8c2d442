"""Peak memory of a fresh process that opens a model and runs it once, or only imports what that takes.

The module is also the program of that process: it reads what to do as JSON and prints KiB.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kdguard.export.errors import UserError
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.runtime.bench.options import ProviderName
from kdguard.runtime.bench.results import Memory
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.session import RestorationSession


def measure_memory(subject: Subject, provider: ProviderName, threads: int) -> Memory:
    """Three processes, one after the other: imports alone, the clean model, the hardened one.

    Raises:
        UserError: one of them ended early, out of memory perhaps.
    """
    task = {
        "card": subject.card.model_dump(),
        "shape": subject.tensor.shape,
        "provider": provider,
        "threads": threads,
    }
    imports = _peak_mib({**task, "model": None})
    clean, hardened = (
        _peak_mib({**task, "model": str(path)}) - imports for path in (subject.teacher, subject.hardened)
    )
    return Memory(imports_mib=imports, clean_mib=clean, hardened_mib=hardened)


def _peak_mib(task: dict[str, Any]) -> float:
    # -P: the current folder, which the user chose for other reasons, is no place to import from.
    command = [sys.executable, "-P", "-m", __name__]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
        raise UserError(
            f"the process that measures the memory of {task['model']} ended with {done.returncode}: {said}; give a "
            "smaller size where memory is short"
        )
    # A session may have had something to say before, of native kernels that it leaves alone.
    return int(done.stdout.splitlines()[-1]) / 1024


def _run_once(task: dict[str, Any]) -> None:
    importlib.import_module("onnxruntime")  # which sessions import when they are built
    if task["model"] is None:
        return
    card = ModelCard.model_validate(task["card"])
    model = load_onnx(task["model"])
    session = RestorationSession(model, card, provider=task["provider"], threads=task["threads"])
    session.run(np.zeros(task["shape"], np.float32))


def _peak_kib() -> int:
    """Of this process. On Linux not by getrusage, whose maximum a child inherits from its parent through exec."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    _run_once(json.load(sys.stdin))
    print(_peak_kib())
