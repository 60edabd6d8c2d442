"""What an engine is: a file beside it that is checked before anybody hands the engine to the vendor's library.

It tells an engine that is damaged, cut off or mixed up, or that another version built. It is not signed: whoever can
exchange an engine can exchange its manifest.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from kdguard.export.errors import MissingDependencyError, UserError, first_problem
from kdguard.export.files import TORCH_SUFFIXES, real_path, sha256_of_file
from kdguard.export.model_card import ModelCard
from kdguard.runtime.engines import ENGINES
from kdguard.runtime.engines.gpus import in_words, runs_on
from kdguard.runtime.engines.tensor_types import VendorType

MODEL_SUFFIXES = (".onnx", *TORCH_SUFFIXES)
Op = Literal["none", "function", "plugin", "plugin and function"]


class EngineTensor(BaseModel):
    """An input or output of the network as the vendor's parser sees it; -1 is a free side."""

    name: str
    dtype: VendorType
    shape: list[int]


class EngineManifest(BaseModel):
    """Provenance of an engine."""

    kdguard_version: str = Field(default_factory=lambda: version("kdguard"))
    engine: str = Field(description="file name")
    engine_sha256: str
    kind: Literal["tensorrt", "tensorrt-rtx"]
    vendor_version: str = Field(description="of the package that built it")
    gpus: list[Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]] = Field(
        min_length=1, description="compute capabilities that it was built for"
    )
    later_gpus: bool = Field(description="it is for later ones as well")
    hardened: str = Field(description="file name of the model")
    hardened_sha256: str
    layers: list[str] = Field(description="that are hardened in it")
    card: ModelCard = Field(description="how it wants its images")
    precision: str
    op: Op = Field(
        description="what finds singular vectors in it: the function, written out in standard operators, or a kernel"
    )
    plugin: str | None = Field(None, description="hash of the sources of that kernel")
    version_compatible: bool = Field(False, description="newer versions of the vendor's library load it too")
    inputs: list[EngineTensor]
    outputs: list[EngineTensor]
    shapes: dict[str, Annotated[list[list[int]], Field(min_length=3, max_length=3)]] = Field(
        description="per input the smallest, usual and largest shape"
    )
    seconds: float = Field(description="that building took")

    @model_validator(mode="after")
    def _of_the_card(self) -> EngineManifest:
        ranks = {tensor.name: len(tensor.shape) for tensor in self.inputs}
        if ranks.get(self.card.input_name) != 4 or self.card.output_name not in {t.name for t in self.outputs}:
            raise ValueError("its card speaks of an image input or an output that the engine does not have")
        if {name: {len(shape) for shape in shapes} for name, shapes in self.shapes.items()} != {
            name: {rank} for name, rank in ranks.items()
        }:
            raise ValueError("its shapes are not those of its inputs")
        return self


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine is written."""
    return engine.parent / f"{engine.name}.json"


def found_manifest(engine: Path) -> Path:
    """Where the manifest of an engine is read; a link to an engine has one of its own or that of what it leads to."""
    beside = manifest_path(engine)
    try:
        return beside if beside.exists() else manifest_path(real_path(engine))
    except OSError:  # a folder that may not be looked into, a name that is too long
        return beside


def check_engine_name(target: Path) -> None:
    """Fail before work starts if an engine is to get a model's name, for which everybody would take it.

    Raises:
        UserError: it ends so.
    """
    if target.suffix.lower() in MODEL_SUFFIXES:
        raise UserError(f"cannot write {target}: that is a name for a model; give a name that ends in .engine, say")


def read_manifest(engine: Path) -> EngineManifest:
    """The manifest of an engine, whose file it is held against.

    Raises:
        UserError: the engine or its manifest is missing or damaged, or they do not belong together.
    """
    path = engine
    try:
        if not engine.is_file():
            raise UserError(f"there is no engine {engine}; give the file that `kdguard build` wrote")
        path = found_manifest(engine)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is no file, and should be the manifest of {engine.name}; build the engine again")
        found = EngineManifest.model_validate(json.loads(path.read_bytes()))
        actual = sha256_of_file(engine)
    except FileNotFoundError as error:
        raise UserError(
            f"{engine} has no manifest {path.name} beside it, without which nothing says what it is; build it with "
            "`kdguard build`"
        ) from error
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        where, what = first_problem(error)
        wrong = f"{where} {what}".strip()
        raise UserError(f"{path} is no manifest of an engine: {wrong}; build the engine again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON; build the engine again") from error
    if actual != found.engine_sha256:
        raise UserError(
            f"{engine} is not the file that its manifest speaks of (SHA-256 {actual[:12]}, expected "
            f"{found.engine_sha256[:12]}): damaged, cut off or mixed up; build it again"
        )
    return found


def check_engine(engine: Path, installed_version: str, compute_capability: str) -> EngineManifest:
    """The manifest of an engine that this machine may load.

    Args:
        installed_version: of the vendor's package.
        compute_capability: of the GPU, `8.9` say.

    Raises:
        UserError: as `read_manifest`.
        MissingDependencyError: another version built it, or it was built for another GPU.
    """
    found = read_manifest(engine)
    title = ENGINES[found.kind].title
    if found.vendor_version != installed_version and not found.version_compatible:
        raise MissingDependencyError(
            f"{engine} was built by {title} {found.vendor_version} and {installed_version} is installed; engines fit "
            "one version: build it again, or install that one"
        )
    if not runs_on(compute_capability, found.gpus, found.later_gpus):
        again = "here" if ENGINES[found.kind].needs_gpu else f"with --gpu {compute_capability}"
        raise MissingDependencyError(
            f"{engine} was built for GPUs of compute capability {in_words(found.gpus, found.later_gpus)} and this one "
            f"has {compute_capability}; build it again {again}"
        )
    return found
