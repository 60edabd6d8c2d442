"""How every benchmark writes what it measured."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def command_line() -> str:
    """As it was typed, from the checkout's root."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> str:
    """What it ran on."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return ", ".join([model.partition(":")[2].strip() or platform.machine(), f"{os.cpu_count()} cores"])


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def write_results(**measured: object) -> None:
    """One JSON document on standard output, with the command that made it."""
    name = Path(sys.argv[0]).stem
    command = f"{command_line()} > benchmarks/results/{name}.json"
    json.dump({"command": command, "machine": machine(), **measured}, sys.stdout, indent=1)
    print()
