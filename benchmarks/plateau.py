"""Had the students of benchmarks/red_team.py reached their plateau? The controls, trained twice as long.

    python benchmarks/plateau.py [SUBJECT...] > benchmarks/results/plateau.json

What asks no teacher, or the clean one, with the seeds of the recorded runs; learning rates are chosen anew at the
greater length, so that the gain is that of a longer training as one would run it. Where twice the steps bring a
control more than its interval, the length is doubled again. Needs the models of benchmarks/zoo_harden.py; students of
a length that was recorded come from build/red_team where they are there.
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
MOST_STEPS = 8000

Row = dict[str, object]


def scores_of(found: subjects.Subject, steps: int) -> dict[str, list[float]]:
    """PSNR of every control's students."""
    training = red_team.TRAINING.model_copy(update={"steps": steps})
    options = AttackOptions(recipes=CONTROLS, training=training)
    given = (found.hardened, found.teacher, found.train, found.test, options)
    board = attack(*given, task=found.task, cache=subjects.BUILD / "sweep").scoreboard
    return {recipe: [row.psnr for row in board.rows if row.recipe == recipe] for recipe in CONTROLS}


def gain_of(subject: str, recipe: str, lengths: list[int], scores: list[list[float]]) -> Row:
    before, after = scores
    gains = [longer - usual for usual, longer in zip(before, after, strict=True)]
    means = [float(np.mean(of_seeds)) for of_seeds in scores]
    facts = {"subject": subject, "recipe": recipe, "steps": lengths, "psnr": means}
    return facts | {"gain_db": float(np.mean(gains)), "gain_ci95": interval95(gains)}


def measure(name: str) -> list[Row]:
    rows: list[Row] = []
    with subjects.subject(name) as found:
        steps = red_team.TRAINING.steps
        usual, growing = scores_of(found, steps), True
        while growing and steps < MOST_STEPS:
            longer = scores_of(found, 2 * steps)
            lengths = [steps, 2 * steps]
            new = [gain_of(name, recipe, lengths, [usual[recipe], longer[recipe]]) for recipe in CONTROLS]
            print(*new, sep="\n", file=sys.stderr)
            rows += new
            growing = any(row["gain_db"] > row["gain_ci95"] for row in new)
            steps, usual = 2 * steps, longer
    return rows


def main() -> None:
    asked = sys.argv[1:] or subjects.names()
    with redirect_stdout(sys.stderr):  # what an attack says is not what was measured
        rows = [row for name in asked for row in measure(name)]
    write_results(what="controls at the recorded runs' length and beyond", results=rows)


if __name__ == "__main__":
    main()
