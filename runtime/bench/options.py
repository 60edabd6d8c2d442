"""What to bench: the options of the command, and the section of a pipeline file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from kdguard.export.errors import UserError
from kdguard.runtime.engines.shapes import parse_size
from kdguard.runtime.yaml_section import YamlSection

ProviderName = Literal["cpu", "cuda"]
MAX_ROUNDS, MAX_THREADS = 10_000, 1024


def _size(text: str) -> str:
    try:
        return str(parse_size(text))
    except UserError as error:
        raise ValueError(str(error)) from error


class BenchOptions(YamlSection):
    """See `kdguard bench --help`."""

    providers: tuple[ProviderName, ...] = Field((), description="empty: the CPU, and CUDA where there is a GPU")
    size: Annotated[str, AfterValidator(_size)] | None = Field(
        None, description="HEIGHTxWIDTH of the degraded image; none: 256x256, rounded to what the model takes"
    )
    rounds: int = Field(21, ge=1, le=MAX_ROUNDS)
    threads: int | None = Field(None, ge=1, le=MAX_THREADS, description="none: one per core")


def bench_options(providers: Sequence[str], size: str | None, rounds: int, threads: int | None) -> BenchOptions:
    """From the command line.

    Raises:
        UserError: an unknown provider, or no size.
    """
    known = get_args(ProviderName)
    if unknown := [name for name in providers if name not in known]:
        raise UserError(f"--providers: {unknown[0]} is not allowed; give {' or '.join(known)}")
    if size is not None:
        parse_size(size, "--size")
    return BenchOptions.model_validate({"providers": providers, "size": size, "rounds": rounds, "threads": threads})
