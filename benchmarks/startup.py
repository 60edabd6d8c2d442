"""Time of `kdguard --help`, against a bare interpreter, interleaved.

python benchmarks/startup.py > benchmarks/results/startup.json
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from output import write_results

ROUNDS = 15


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    kdguard = str(Path(sys.executable).with_name("kdguard"))
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "kdguard --help": [kdguard, "--help"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    write_results(
        rounds=ROUNDS,
        median_seconds=medians,
    )


if __name__ == "__main__":
    main()
