"""How every benchmark writes what it measured."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from kdguard.runtime.report.environment import processor

RESULTS = Path(__file__).parent / "results"


def command_line() -> str:
    """As it was typed, from the checkout's root."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> str:
    """What it ran on."""
    return f"{processor()}, {os.cpu_count()} cores"


def write_results(**measured: object) -> None:
    """One JSON document on standard output, with the command that made it."""
    name = Path(sys.argv[0]).stem
    command = f"{command_line()} > benchmarks/results/{name}.json"
    json.dump({"command": command, "machine": machine(), **measured}, sys.stdout, indent=1)
    print()
