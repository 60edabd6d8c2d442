"""Had the students of benchmarks/red_team.py reached their plateau? The controls, trained twice as long.

    python benchmarks/plateau.py [SUBJECT...] > benchmarks/results/plateau.json

What asks no teacher, or the clean one, with the seeds of the recorded runs; learning rates are chosen anew at the
greater length, so that the gain is that of a longer training as one would run it. Needs the models
of benchmarks/zoo_harden.py; students of the usual length come from build/red_team where they are there.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

import numpy as np
import red_team
import subjects
from output import write_results

from kdguard.runtime.red_team.attack import attack
from kdguard.runtime.red_team.interval import interval95
from kdguard.runtime.red_team.options import AttackOptions

CONTROLS = ("scratch", "same-budget")
TIMES = 2


def measure(name: str) -> list[dict[str, object]]:
    lengths = [red_team.TRAINING.steps, TIMES * red_team.TRAINING.steps]
    scores: dict[str, list[list[float]]] = {recipe: [] for recipe in CONTROLS}
    with subjects.subject(name) as found:
        for steps in lengths:
            training = red_team.TRAINING.model_copy(update={"steps": steps})
            options = AttackOptions(recipes=CONTROLS, training=training)
            cache = subjects.BUILD / "sweep"
            given = (found.hardened, found.teacher, found.train, found.test, options)
            board = attack(*given, task=found.task, cache=cache).scoreboard
            for recipe in CONTROLS:
                scores[recipe].append([row.psnr for row in board.rows if row.recipe == recipe])
    rows: list[dict[str, object]] = []
    for recipe, (usual, longer) in scores.items():
        gains = [after - before for before, after in zip(usual, longer, strict=True)]
        means = [float(np.mean(of_seeds)) for of_seeds in (usual, longer)]
        facts = {"subject": name, "recipe": recipe, "steps": lengths, "psnr": means}
        rows.append(facts | {"gain_db": float(np.mean(gains)), "gain_ci95": interval95(gains)})
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    asked = sys.argv[1:] or subjects.names()
    with redirect_stdout(sys.stderr):  # what an attack says is not what was measured
        rows = [row for name in asked for row in measure(name)]
    write_results(what="controls at the recorded runs' length and beyond", results=rows)


if __name__ == "__main__":
    main()
