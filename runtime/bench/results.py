"""What `kdguard bench` measures, as it is written into JSON, summary and report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from kdguard.runtime.bench.interleave import median_interval, paired_ratios
from kdguard.runtime.bench.other_work import OtherWork
from kdguard.runtime.report.environment import Environment

Interval = tuple[float, float] | None
BY_PROFILER, BY_DIFFERENCE = "profiler", "1 - clean / hardened"


class Timing(BaseModel):
    """Of one subject."""

    median_ms: float
    ci95_ms: Interval = Field(None, description="of the median, bootstrap; none for fewer than six rounds")
    n: int = Field(description="rounds that were timed")

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Of its samples."""
        milliseconds = [1000 * value for value in seconds]
        return cls(
            median_ms=statistics.median(milliseconds), ci95_ms=median_interval(milliseconds), n=len(milliseconds)
        )


class Ratio(BaseModel):
    """One subject's time over another's, paired by round."""

    median: float
    ci95: Interval = None
    n: int = Field(description="rounds in which both ran")

    @classmethod
    def of(cls, seconds: Sequence[float], over: Sequence[float]) -> Ratio:
        """Of both subjects' samples, which start with the same round."""
        ratios = paired_ratios(seconds, over)
        return cls(median=statistics.median(ratios), ci95=median_interval(ratios), n=len(ratios))


class Speed(BaseModel):
    """Latency and throughput of a model, one call at a time."""

    latency: Timing
    images_per_second: float
    megapixels_per_second: float = Field(description="pixels of the degraded image")


class Memory(BaseModel):
    """Peak resident memory of a fresh process that opens the model and runs it once, in MiB."""

    imports_mib: float = Field(description="peak of a process that imports the same packages and opens nothing")
    clean_mib: float = Field(description="less imports_mib")
    hardened_mib: float = Field(description="less imports_mib")


class OpShare(BaseModel):
    """Share of the hardened model's time that our nodes take."""

    share: float = Field(description="by difference it may be below 0, where nothing can be told")
    method: Literal["profiler", "1 - clean / hardened"]


class OpAlone(BaseModel):
    """One SvdPerturb node on the map of its layer, against other ways to spend time on the same tensor."""

    layers: list[str] = Field(description="all with this shape, type and attributes; gains and keys may differ")
    shape: list[int]
    dtype: str
    rank: int
    kernels: str = Field(description="native or function")
    op: Timing
    plain_copy: Timing = Field(description="of the map: numpy.copyto, one thread; torch's copy_ on a GPU")
    svd: Timing = Field(description="torch.linalg.svd and the same change")
    svd_threads: int = Field(description="of it: one or all, whichever is faster against the op in the same turns")
    svd_lowrank: Timing = Field(description="torch.svd_lowrank and the same change")
    svd_lowrank_threads: int
    op_over_copy: Ratio
    svd_over_op: Ratio
    svd_lowrank_over_op: Ratio
    svd_lowrank_error: float = Field(description="of its result against that of svd, largest, relative to the largest")


class ProviderBench(BaseModel):
    """One execution provider."""

    provider: str = Field(description="as asked for")
    runs_on: str = Field(description="as onnxruntime names it")
    kernels: str = Field(description="what runs the op: native, function, plugin, or none")
    clean: Speed
    hardened: Speed
    slowdown: Ratio = Field(description="hardened over clean")
    memory: Memory | None = Field(description="none for engines")
    device_memory_mib: float | None = None
    device_memory_reason: str = Field(description="why there is no figure")
    op_share: OpShare | None = Field(description="none where nothing is hardened")
    op_alone: list[OpAlone]
    op_not_measured: dict[str, str] = Field(description="layers, and why")


class Bench(BaseModel):
    """One run of the bench."""

    teacher: str
    teacher_sha256: str
    hardened: str
    hardened_sha256: str
    size: list[int] = Field(description="height and width of the degraded image")
    input_shape: list[int]
    rounds: int
    threads: int
    providers: list[ProviderBench]
    lacking: dict[str, str] = Field(description="providers that were asked for and do not run here, and why")
    other_work: OtherWork
    environment: Environment
