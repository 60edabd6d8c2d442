"""What a run found, written as JSON. Plain dataclasses, for pydantic may be missing; its `TypeAdapter` reads them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["passed", "failed", "skipped"]
TimingState = Literal["timed", "failed", "skipped"]
VERSION = 1


@dataclass(frozen=True)
class Environment:
    """Where it ran."""

    time: str
    platform: str
    python: str
    gpu: str
    driver: str
    nvcc: str
    commit: str
    kernels: str
    packages: dict[str, str]


@dataclass(frozen=True)
class CheckResult:
    """One comparison.

    Attributes:
        check: the file in `checks` that made it.
        what: what was compared with what.
        reason: why it failed or was left out.
        error: largest error found, in the unit of `limit`; None where nothing was measured or it is not finite.
        limit: what it had to stay within.
    """

    check: str
    what: str
    state: State
    reason: str = ""
    error: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Timing:
    """Medians of one subject, interleaved.

    Attributes:
        timing: the file in `timings` that made it.
        what: what ran, on what.
        milliseconds: by name.
        ratios: of these medians, by what they say.
        rounds: runs of each.
        reason: why nothing was timed.
    """

    timing: str
    what: str
    state: TimingState = "timed"
    milliseconds: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that one run found."""

    environment: Environment
    checks: list[CheckResult] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    version: int = VERSION

    def add(self, result: CheckResult | Timing) -> None:
        """Take in one more result."""
        if isinstance(result, CheckResult):
            self.checks.append(result)
        else:
            self.timings.append(result)

    @property
    def passed(self) -> bool:
        """Whether something was checked or timed and nothing failed."""
        states = {result.state for result in self.checks} | {timing.state for timing in self.timings}
        return bool(states & {"passed", "timed"}) and "failed" not in states

    @classmethod
    def read(cls, source: Path) -> Report:
        """What `write` wrote."""
        found = json.loads(source.read_bytes())
        return cls(
            Environment(**found["environment"]),
            [CheckResult(**result) for result in found["checks"]],
            [Timing(**timing) for timing in found["timings"]],
            found["version"],
        )

    def write(self, target: Path) -> None:
        """Write the JSON file, whole or not at all."""
        from kdguard.export.files import atomic_path

        with atomic_path(target) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")


def compared(check: str, what: str, error: float, limit: float) -> CheckResult:
    """Passed where an error is within its limit; NaN is not."""
    if error <= limit:
        return CheckResult(check, what, "passed", error=error, limit=limit)
    shown = error if math.isfinite(error) else None
    return CheckResult(check, what, "failed", f"{error:.3g} is beyond {limit:.3g}", shown, limit)
