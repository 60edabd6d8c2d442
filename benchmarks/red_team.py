"""`kdguard attack` on published teachers hardened with the defaults: the core recipes on all, every recipe on two.

    python benchmarks/red_team.py [--steps N] [--recipes core|all] [TASK...]

Attackers own the zoo's 64 training photographs, degraded by the tasks themselves; students are scored
on published test pairs. Needs the models that benchmarks/zoo_harden.py leaves in build/zoo. One file
per task and set of recipes appears in benchmarks/results/red_team/; build/red_team keeps answers and
finished students, so a stopped run goes on there. Below KDGUARD_ZOO, default ../shared/zoo.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import joblib
import torch
import zoo
from output import RESULTS, command_line

from kdguard.runtime.recipes import RECIPES
from kdguard.runtime.red_team.attack import attack
from kdguard.runtime.red_team.options import AttackOptions, TrainingOptions
from kdguard.runtime.red_team.table import scoreboard_table
from kdguard.runtime.terminal import show

CORE = ("scratch", "output-l1", "output+gt", "fitnets", "fitnets-standardised", "fakd", "strip+refit")
CACHE = zoo.ROOT / "build" / "red_team"
TRAINING = TrainingOptions(steps=1500, patch=32, learning_rates=(2e-3, 5e-3))
"""Small enough for a few hours of two cores; the recorded curves show where students are by then."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=TRAINING.steps)
    parser.add_argument("--recipes", choices=["core", "all"], default="core")
    parser.add_argument("--model", help="a defended model: NAME for build/zoo/TASK-NAME.onnx")
    parser.add_argument("tasks", nargs="*")
    given = parser.parse_args()
    for task in zoo.tasks(given.tasks):
        record(task, given.recipes, given.steps, given.model)


def record(task: str, recipes: str, steps: int, model: str | None) -> None:
    names = CORE if recipes == "core" else tuple(RECIPES)
    options = AttackOptions(recipes=names, tap=tap_of(task), training=TRAINING.model_copy(update={"steps": steps}))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        data = zoo.calibration_folder(Path(scratch))
        outcome = attack(
            zoo.HARDENED / f"{task}{f'-{model}' if model else ''}.onnx",
            zoo.ZOO / task / "teacher.onnx",
            data,
            zoo.ZOO / task / "test",
            options,
            task=task,
            cache=CACHE / task,
        )
    show(scoreboard_table(outcome.scoreboard))
    target = RESULTS / "red_team" / f"{task}-{model or 'hardened'}-{recipes}.json"
    target.parent.mkdir(exist_ok=True)
    content = {
        "command": command_line(),
        "what": "students trained by every recipe from the clean and from the defended teacher",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "workers": joblib.cpu_count(),
        "task": task,
        "model": model or "hardened",
        "seconds": round(time.monotonic() - started, 1),
        "scoreboard": outcome.scoreboard.model_dump(),
    }
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{target}", file=sys.stderr)


def tap_of(task: str) -> str:
    """The last paired layer of the hardened model: what an attacker reads in all defended versions."""
    from kdguard.graph_passes.inventory import hardened_layers

    layers = hardened_layers(zoo.open_hardened(task)[0])
    return [layer.layer for layer in layers if layer.placement == "paired"][-1]


if __name__ == "__main__":
    main()
