"""`kdguard attack` on hardened and otherwise defended teachers: the core recipes, every one, or fewer.

    python benchmarks/red_team.py [--recipes SET] [--defence NAME] [--untuned] [--steps N] [SUBJECT...]

Sets of recipes: core, features, standard, authorised, keyed, all. `--untuned` attacks as a careless thief does, and as
papers that defend report: one learning rate, no early stopping, the last student counts.

Subjects are the quickstart's teacher and the published ones, by task; all of them by default. Attackers
own the training photographs, degraded by the tasks themselves, or published pairs where these are too
unlike (subjects.IN_DOMAIN); students are scored on other published pairs. Needs
the models of benchmarks/zoo_harden.py, and of benchmarks/prior_defences.py where a defence is named. One
file per subject appears in benchmarks/results/red_team/. build/red_team keeps answers and finished
students, so a stopped run goes on there. Published teachers lie below KDGUARD_ZOO, default ../shared/zoo.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import subjects
import torch
from output import RESULTS, command_line, machine

from kdguard.runtime.defences import DEFENCES
from kdguard.runtime.recipes import RECIPES
from kdguard.runtime.red_team.attack import attack
from kdguard.runtime.red_team.options import AttackOptions, TrainingOptions
from kdguard.runtime.red_team.table import scoreboard_table
from kdguard.runtime.terminal import show

CORE = ("scratch", "output-l1", "output+gt", "fitnets", "fitnets-standardised", "fakd", "strip+refit")
FEATURES = ("output-l1", "fitnets", "fitnets-standardised")
STANDARD = ("fitnets", "attention-transfer", "fsp")
"""Recipes of features as published, by attackers who know nothing of the defence."""
AUTHORISED = ("authorised",)
"""A key holder; plain distillation stands in the recordings of the core recipes, students of the same seeds."""
KEYED = (*FEATURES, "keyed-answers", "keyed-answers-0.5")
"""Against Safe Distillation Box as published: thieves, and whoever holds the key of the one that is attacked."""
RECIPE_SETS = {
    "core": CORE,
    "features": FEATURES,
    "standard": STANDARD,
    "authorised": AUTHORISED,
    "keyed": KEYED,
    "all": tuple(RECIPES),
}
TRAINING = TrainingOptions(steps=1000, patch=32, learning_rates=(5e-3, 1.2e-2))
"""Small enough for a few hours of two cores; the recorded validation curves show where students are by then."""
UNTUNED = TRAINING.model_copy(update={"learning_rates": TRAINING.learning_rates[:1], "early_stopping": False})


def record(name: str, recipes: str, defence: str | None, untuned: bool, steps: int) -> None:
    started = time.monotonic()
    with subjects.subject(name) as found:
        options = AttackOptions(
            recipes=RECIPE_SETS[recipes],
            tap=found.paired[-1],
            training=(UNTUNED if untuned else TRAINING).model_copy(update={"steps": steps}),
        )
        outcome = attack(
            found.defended(defence) if defence else found.hardened,
            found.teacher,
            found.train,
            found.test,
            options,
            task=found.task,
            cache=subjects.BUILD / "sweep",
        )
    show(scoreboard_table(outcome.scoreboard))
    content = {
        "command": command_line(),
        "what": "students trained by every recipe from the clean and from the defended teacher",
        "subject": name,
        "defence": defence or "kdguard harden",
        "tuned": not untuned,
        "machine": machine(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started, 1),
        "training": options.training.model_dump(),
        "scoreboard": outcome.scoreboard.model_dump(),
    }
    unusual = "-untuned" * untuned + f"-{steps}-steps" * (steps != TRAINING.steps)
    target = RESULTS / "red_team" / f"{name}-{defence or 'hardened'}-{recipes}{unusual}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(target, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipes", choices=list(RECIPE_SETS), default="core")
    parser.add_argument("--defence", choices=[*DEFENCES, subjects.ASVP_PAIRED])
    parser.add_argument("--untuned", action="store_true")
    parser.add_argument("--steps", type=int, default=TRAINING.steps)
    parser.add_argument("subjects", nargs="*", choices=[[], *subjects.names()], default=[])
    given = parser.parse_args()
    for name in given.subjects or subjects.names():
        record(name, given.recipes, given.defence, given.untuned, given.steps)


if __name__ == "__main__":
    main()
