"""`pipeline.yaml`: the whole job as typed configuration, with messages a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from kdguard.export.errors import UserError, in_plain_words
from kdguard.export.model_card import CardOverrides, Layout, ModelCard, SizeMultiple, ValueRange
from kdguard.export.tasks import get_task
from kdguard.graph_passes.op.attributes import Gain, Rank, SvdPerturbAttributes
from kdguard.runtime.auto.options import AUTO, AUTO_STANDS_ALONE, HardenOptions, PlacementChoice
from kdguard.runtime.bench.options import BenchOptions
from kdguard.runtime.box.section import BoxSection
from kdguard.runtime.fidelity import MAX_BUDGET_DB
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.red_team.options import DEFAULT_RECIPES, Backend, TrainingOptions, all_if_asked
from kdguard.runtime.yaml_section import YamlSection

NO_SUCH_FIELD = "no such field; docs/pipeline.md lists them"
BESIDE_ONNX = ("value_range", "layout", "size_multiple", "extra_input")
"""What may be said of a ready ONNX file, as on the command line: a foreign one need not say it itself."""
Values = Annotated[
    list[FiniteFloat], Field(min_length=1), BeforeValidator(lambda given: given if isinstance(given, list) else [given])
]
"""One number, or several in brackets."""


class _Strict(YamlSection):
    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, given: object) -> object:
        """`harden:` with nothing below it is null in YAML; it means that all its fields are left out."""
        if not isinstance(given, dict):
            return given
        sections = {name for name, field in cls.model_fields.items() if _is_section(field.annotation)}
        return {name: {} if value is None and name in sections else value for name, value in given.items()}


def _is_section(annotation: object) -> bool:
    """Whether a field holds a section; it may be one that can be left out altogether."""
    kinds = get_args(annotation) or (annotation,)
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


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
        if (None in folders) if self.prepare is None else any(folders):
            raise ValueError("give either prepare, or all of train, calibration and test")
        return self


class TeacherSection(_Strict):
    """A torch factory with weights and its card, or a ready ONNX file and what it does not say itself."""

    source: str | None = Field(None, description="package.module:factory")
    weights: Path | None = None
    channels: Literal[1, 3] = 3
    layout: Layout = "NCHW"
    value_range: ValueRange = (0.0, 1.0)
    size_multiple: SizeMultiple = 1
    onnx: Path | None = Field(None, description="instead of source, weights and channels")
    extra_input: dict[str, Values] = Field(default_factory=dict, description="with onnx: constants of further inputs")

    @model_validator(mode="after")
    def _one_way(self) -> TeacherSection:
        if (self.source is None) == (self.onnx is None):
            raise ValueError("give either source (and weights), or onnx")
        given = [name for name in type(self).model_fields if name in self.model_fields_set - {"onnx", *BESIDE_ONNX}]
        if self.onnx is not None and given:
            allowed = f"{', '.join(BESIDE_ONNX[:-1])} and {BESIDE_ONNX[-1]}"
            raise ValueError(f"leave out {', '.join(given)}: beside onnx only {allowed} may stand")
        if self.onnx is None and self.extra_input:
            raise ValueError("leave out extra_input: it goes with onnx, a torch teacher takes the image alone")
        return self

    def overrides(self) -> CardOverrides:
        """What is said of the ONNX file; fields that are left out are not."""
        said = self.model_dump(include=self.model_fields_set & {*BESIDE_ONNX} - {"extra_input"})
        extra = {name: tuple(values) for name, values in self.extra_input.items()}
        return CardOverrides(**said, extra_inputs=extra, in_pipeline=True)

    def card(self, task: str) -> ModelCard:
        """The card that the export will write; its scale is measured there."""
        return ModelCard(
            task=task,
            input_name="image",
            output_name="restored",
            layout=self.layout,
            channels=self.channels,
            value_range=self.value_range,
            size_multiple=self.size_multiple,
        )


class HardenSection(_Strict):
    """See `kdguard harden --help`."""

    layers: list[str] = Field(default_factory=list, description="empty: chosen from the calibration images")
    op_types: list[str] = Field(default_factory=list)
    placement: PlacementChoice = "auto"
    rank: Rank | None = None
    gain: Gain | None = Field(None, description="none: calibrated per layer")
    centred: bool = False
    budget_db: float = Field(0.1, ge=0, le=MAX_BUDGET_DB)
    max_slowdown: float = Field(1.05, ge=1, le=10)
    tile_safe: bool = False

    @field_validator("layers", mode="before")
    @classmethod
    def _auto_layers(cls, given: object) -> object:
        return [AUTO] if given == AUTO else given

    @field_validator("gain", mode="before")
    @classmethod
    def _auto_gain(cls, given: object) -> object:
        return None if given == AUTO else given

    @model_validator(mode="after")
    def _auto_alone(self) -> HardenSection:
        if AUTO in self.layers and (self.layers != [AUTO] or self.op_types):
            raise ValueError(AUTO_STANDS_ALONE)
        return self

    def options(self, seed: int, cache: Path) -> HardenOptions:
        """As `runtime.harden.harden` takes them."""
        fixed = {"rank": self.rank, "gain": self.gain, "centred": self.centred or None}
        given = {name: value for name, value in fixed.items() if value is not None}
        return HardenOptions(
            globs=self.layers or (() if self.op_types else (AUTO,)),
            op_types=self.op_types,
            placement=self.placement,
            attributes=SvdPerturbAttributes.model_validate(given) if given else None,
            gain=self.gain,
            budget_db=self.budget_db,
            seed=seed,
            max_slowdown=self.max_slowdown,
            tile_safe=self.tile_safe,
            cache=cache,
        )


class AttackSection(_Strict):
    """See `kdguard attack --help`."""

    recipes: list[str] = Field(default_factory=lambda: list(DEFAULT_RECIPES), min_length=1)
    seeds: int = Field(3, ge=1)
    tap: str | None = None
    tiles: int = Field(64, ge=1)
    backend: Backend = "joblib"
    training: TrainingOptions = Field(default_factory=TrainingOptions)

    @field_validator("recipes")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("a recipe is named twice; its students would count double")
        return names


class Pipeline(_Strict):
    """One run, from checkpoint to report."""

    name: str = Field(min_length=1, description="title of the report")
    task: str
    out: Path = Field(description="run folder, relative to the current folder")
    teacher: TeacherSection
    data: DataSection
    harden: HardenSection = Field(default_factory=HardenSection)
    attack: AttackSection = Field(default_factory=AttackSection)
    bench: BenchOptions | None = Field(None, description="none: nothing is timed")
    box: BoxSection | None = Field(None, description="none: nobody gets a key")
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
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a pipeline is a mapping with name, task, out, teacher, data and harden")
    try:
        pipeline = Pipeline.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'top level'}: "
            f"{NO_SUCH_FIELD if p['type'] == 'extra_forbidden' else in_plain_words(p, Pipeline)}"
            for p in error.errors()
        )
        raise UserError(f"{path}: {problems}") from error
    get_task(pipeline.task)
    for recipe in all_if_asked(pipeline.attack.recipes):
        get_recipe(recipe)
    return pipeline
