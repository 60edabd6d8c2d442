"""`pipeline.yaml`: the whole job as typed configuration, with messages a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdguard.export.errors import UserError
from kdguard.export.tasks import get_task
from kdguard.runtime.attack import DEFAULT_RECIPES
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.trial import TrainingOptions


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Strict):
    """Folders of pairs, or a function that writes them; paths are relative to the YAML file.

    `train` is what the attacker owns, `calibration` what hardening may look at, `test` what
    only the final scores see.
    """

    prepare: str | None = Field(None, description="module:function(folder), writes train/ calibration/ test/")
    train: Path | None = None
    calibration: Path | None = None
    test: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> DataSection:
        folders = (self.train, self.calibration, self.test)
        if (self.prepare is None) == any(folder is None for folder in folders):
            raise ValueError("give either prepare, or all of train, calibration and test")
        return self


class TeacherSection(_Strict):
    """A torch factory with weights, or a ready ONNX file."""

    source: str | None = Field(None, description="package.module:factory")
    weights: Path | None = None
    onnx: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> TeacherSection:
        if (self.source is None) == (self.onnx is None):
            raise ValueError("give either source (and weights), or onnx")
        return self


class HardenSection(_Strict):
    """See `kdguard harden --help`."""

    layers: list[str] = Field(default_factory=list)
    op_types: list[str] = Field(default_factory=list)
    placement: Literal["in-path", "paired"] = "paired"
    rank: int = Field(4, ge=1, le=16)
    gain: float = Field(10.0, gt=0)
    centred: bool = False
    budget_db: float = Field(0.1, ge=0)


class AttackSection(_Strict):
    """See `kdguard attack --help`."""

    recipes: list[str] = Field(default_factory=lambda: list(DEFAULT_RECIPES), min_length=1)
    seeds: int = Field(3, ge=1)
    tap: str | None = None
    tiles: int = Field(64, ge=1)
    training: TrainingOptions = Field(default_factory=TrainingOptions)


class Pipeline(_Strict):
    """One run, from checkpoint to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: str
    out: Path = Field(description="run folder, relative to the current folder")
    teacher: TeacherSection
    data: DataSection
    harden: HardenSection
    attack: AttackSection = Field(default_factory=AttackSection)
    seed: int = Field(0, ge=0)


def load_pipeline(path: Path) -> Pipeline:
    """Read and check a pipeline file.

    Raises:
        UserError: missing file, bad YAML, unknown or wrong fields; names the field.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a pipeline.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a pipeline is a mapping with name, task, out, teacher, data and harden")
    try:
        pipeline = Pipeline.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'top level'}: {p['msg'].removeprefix('Value error, ')}"
            for p in error.errors()
        )
        raise UserError(f"{path}: {problems}") from error
    get_task(pipeline.task)
    for recipe in pipeline.attack.recipes:
        get_recipe(recipe)
    return pipeline
