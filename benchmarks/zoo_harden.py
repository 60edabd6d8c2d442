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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zoo

from kdguard.export.image_pairs import load_pairs
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.manifest import Manifest, manifest_path
from kdguard.runtime.open_model import resolve_card
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.strip import REFIT_IMAGES, measure_strip


def run_harden(task: str, data: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak gigabytes of the command."""
    command = [sys.executable, "-m", "kdguard.runtime.cli", "harden", str(zoo.ZOO / task / "teacher.onnx")]
    command += ["-o", str(output), "--data", str(data), "--task", task]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{task}: harden failed")
    return time.monotonic() - started, usage.ru_maxrss / 2**20


def measure(task: str, data: Path) -> dict[str, object]:
    output = zoo.HARDENED / f"{task}.onnx"
    seconds, gigabytes = run_harden(task, data, output)
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
    json.dump(
        {
            "command": "python benchmarks/zoo_harden.py > benchmarks/results/zoo_harden.json",
            "what": "kdguard harden with its defaults, calibrated on 64 photographs, scored on published test pairs",
            "cores": os.cpu_count(),
            "results": rows,
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
