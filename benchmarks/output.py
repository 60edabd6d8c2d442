"""How every benchmark writes what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def write_results(**measured: object) -> None:
    """One JSON document on standard output, with the command that made it."""
    name = Path(sys.argv[0]).stem
    command = " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:], ">", f"benchmarks/results/{name}.json"])
    json.dump({"command": command, **measured}, sys.stdout, indent=1)
    print()
