"""`kdguard harden` with its defaults on six published teachers: what it costs, keeps and protects.

    python benchmarks/zoo_harden.py [TASK...] > benchmarks/results/zoo_harden.json

Calibrates on the zoo's 64 training photographs, degraded by the tasks themselves, and scores on its
published test pairs. One process per teacher, for its peak memory. The hardened models stay in
build/zoo for benchmarks/zoo_latency.py and benchmarks/feature_undo.py. Below KDGUARD_ZOO, default
../shared/zoo.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zoo
from output import write_results

from kdguard.export.image_pairs import load_pairs
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.manifest import Manifest, manifest_path
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.strip import REFIT_IMAGES, measure_strip


def run_kdguard(*arguments: str) -> tuple[float, float]:
    """Seconds and peak gigabytes of a command."""
    command = [sys.executable, "-m", "kdguard.runtime.cli", *arguments]
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=sys.stderr)
    # The resource usage of a child counts what its parent held before the exec, so the peak is read while it runs.
    while process.poll() is None:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        except OSError:
            continue
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"kdguard {' '.join(arguments)}: exit code {process.returncode}")
    return time.monotonic() - started, peak / 2**20


def measure(task: str, data: Path) -> dict[str, object]:
    output = zoo.HARDENED / f"{task}.onnx"
    given = (str(zoo.ZOO / task / "teacher.onnx"), "--data", str(data), "--task", task)
    inspect_seconds, inspect_gigabytes = run_kdguard("inspect", *given)
    seconds, gigabytes = run_kdguard("harden", *given, "-o", str(output))
    manifest = Manifest.model_validate_json(manifest_path(output).read_text())
    teacher, hardened = load_onnx(zoo.ZOO / task / "teacher.onnx"), load_onnx(output)
    card = resolve_card(hardened, task)
    pairs = zoo.test_pairs(task, card)
    clean = RestorationSession(teacher, card)
    fidelity, _ = measure_fidelity(clean, RestorationSession(hardened, card), pairs, task)
    in_path = {entry.layer: entry.op for entry in hardened_layers(hardened) if entry.placement == "in-path"}
    unlabeled = load_pairs(data, get_task(task), card.channels, card.scale, seed=7, limit=REFIT_IMAGES)
    strip = measure_strip(hardened, card, in_path, pairs, [pair.degraded for pair in unlabeled])
    return {
        "task": task,
        "seconds": round(seconds, 1),
        "peak_gib": round(gigabytes, 2),
        "inspect_seconds": round(inspect_seconds, 1),
        "inspect_peak_gib": round(inspect_gigabytes, 2),
        "layers": [
            {
                "layer": layer.layer,
                "placement": layer.placement,
                "rank": layer.rank,
                "gain": round(layer.gain, 4),
                "relative_distortion": layer.relative_distortion,
            }
            for layer in manifest.layers
        ],
        "coverage": manifest.coverage.model_dump() if manifest.coverage else None,
        "test": fidelity.model_dump(),
        "above_floor_db": fidelity.psnr_between_db - fidelity.psnr_between_floor_db,
        "strip": strip.model_dump(),
        "tiling": manifest.tiling.model_dump() if manifest.tiling else None,
    }


def main() -> None:
    zoo.HARDENED.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        data = zoo.calibration_folder(Path(scratch))
        for task in zoo.tasks(sys.argv[1:]):
            rows.append(measure(task, data))
            print(json.dumps(rows[-1]), file=sys.stderr)
    write_results(
        what="kdguard harden with its defaults, calibrated on 64 photographs, scored on published test pairs",
        cores=os.cpu_count(),
        results=rows,
    )


if __name__ == "__main__":
    main()
