"""Analyses kept in a folder, named by what they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx
from pydantic import ValidationError

from kdguard.export.errors import UserError
from kdguard.export.files import write_text
from kdguard.export.image_pairs import ImagePair, hash_pairs
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import hash_model
from kdguard.runtime.analysis.layer_analysis import Analysis
from kdguard.runtime.terminal import say

VERSION = 6
"""Counts up when what is measured changes, so that old files are not read."""


class AnalysisCache:
    """Analyses of one model on one set of images, with and without sensitivity."""

    def __init__(self, folder: Path, model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair]) -> None:
        """Make the folder and hash what the analyses depend on.

        Raises:
            UserError: the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--cache {folder}: cannot be used as a folder ({error.strerror})") from error
        digest = hashlib.sha256(f"{VERSION} {card.model_dump_json()}".encode())
        digest.update(hash_model(model).encode())
        digest.update(hash_pairs(list(pairs)).encode())
        self._folder, self._key = folder, digest.hexdigest()[:24]

    def _path(self, sensitivity: bool) -> Path:
        return self._folder / f"analysis-{self._key}{'-sensitivity' if sensitivity else ''}.json"

    def read(self, sensitivity: bool) -> Analysis | None:
        """An earlier analysis, if there is one; who does without sensitivity may have it all the same."""
        for path in (self._path(True),) if sensitivity else (self._path(True), self._path(False)):
            try:
                found = Analysis.model_validate_json(path.read_text(encoding="utf-8"))
            except (ValidationError, OSError, UnicodeDecodeError):
                continue  # not there, or damaged: measured again and replaced
            say(f"analysis read from {path}")
            return found
        return None

    def write(self, analysis: Analysis, sensitivity: bool) -> None:
        """Keep an analysis."""
        write_text(self._path(sensitivity), analysis.model_dump_json(indent=1) + "\n")
