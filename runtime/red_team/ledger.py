"""Finished trials on disk: a sweep that was stopped goes on where it was."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kdguard.export.files import atomic_path, made_folder
from kdguard.runtime.red_team.trial import Trial, TrialResult


class Ledger:
    """A folder with one file per finished trial. Files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, making it where it is not there.

        Raises:
            UserError: it cannot be written.
        """
        self._folder = made_folder(folder, "trials")

    def find(self, trial: Trial) -> TrialResult | None:
        """The result of an equal trial, or of one that trains alike; None where a file is damaged or not there."""
        try:
            with np.load(self._path(trial), allow_pickle=False) as entry:
                facts = json.loads(str(entry["facts"]))
                sample = entry["sample"]
            for name in ("curve", "validation_curve"):
                facts[name] = [(int(step), float(value)) for step, value in facts[name]]
            facts["validation_db"] = -math.inf if facts["validation_db"] is None else facts["validation_db"]
            return TrialResult(**facts | {"recipe": trial.recipe}, sample=sample)
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
            return None

    def keep(self, trial: Trial, result: TrialResult) -> None:
        """Write a result down."""
        facts = asdict(result)
        sample = facts.pop("sample")
        if not math.isfinite(result.validation_db):
            facts["validation_db"] = None
        with atomic_path(self._path(trial)) as part, part.open("wb") as stream:
            np.savez(stream, facts=json.dumps(facts, allow_nan=False), sample=sample)

    def _path(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.npz"
