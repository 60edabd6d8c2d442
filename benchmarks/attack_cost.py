"""Seconds of one recipe, three seeds, clean and hardened, on the quickstart's teacher; and of a second recipe.

python benchmarks/attack_cost.py > benchmarks/results/attack_cost.json

The second recipe reads the same tensors: what it asks the teachers for anew is counted, and is nothing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import subjects
from output import write_results

from kdguard.runtime.red_team.attack import attack
from kdguard.runtime.red_team.options import AttackOptions


def main() -> None:
    rows = []
    with subjects.subject(subjects.QUICKSTART) as found, tempfile.TemporaryDirectory() as cache:
        for recipe in ("fitnets", "attention-transfer"):
            queries = Path(cache) / "queries"
            before = len(list(queries.glob("*"))) if queries.is_dir() else 0
            started = time.monotonic()
            options = AttackOptions(recipes=(recipe,), tap=found.paired[-1])
            with redirect_stdout(sys.stderr):  # what an attack says is not what was measured
                attack(found.hardened, found.teacher, found.train, found.test, options, cache=Path(cache))
            asked = len(list(queries.glob("*"))) - before
            rows.append(
                {"recipe": recipe, "seconds": round(time.monotonic() - started, 1), "files_of_new_answers": asked}
            )
    write_results(what="kdguard attack with its defaults, one recipe", results=rows)


if __name__ == "__main__":
    main()
