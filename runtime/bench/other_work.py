"""What other processes did meanwhile: on a busy machine figures are off, and intervals do not show it."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from pydantic import BaseModel, Field

BUSY_SHARE = 0.1
"""Of the cores. Less than that is what a machine does that nobody works on."""
ROUNDING = 0.1
"""Cores: the system counts in hundredths of a second."""
_STATISTICS = Path("/proc/stat")
_IDLE = (3, 4)
"""Columns of a core's line that are no work: idle, and idle with a disk to wait for (man 5 proc)."""
_GUEST = 8
"""From this column on, time counts that an earlier one holds already."""


class OtherWork(BaseModel):
    """While the bench ran."""

    cores: int = Field(description="that this process may use")
    busy: float | None = Field(
        description="of these, kept busy by other processes, on average; none where the system does not tell (only "
        "Linux does), or children that had worked before ended meanwhile"
    )

    @property
    def much(self) -> bool:
        """Whether figures may be off for it."""
        return self.busy is not None and self.busy > BUSY_SHARE * self.cores


class OtherWorkMeter:
    """Reads from its making on."""

    def __init__(self) -> None:
        self._cores = _own_cores()
        self._started, self._all, self._own = time.monotonic(), self._read(), _own_seconds()

    def passed(self) -> float:
        """Seconds."""
        return time.monotonic() - self._started

    def read(self) -> OtherWork:
        """Until now.

        A child counts as another process until it has been waited for, and with all that it ever did from then on: what
        comes out below nothing for that is not known.
        """
        now, passed = self._read(), self.passed()
        if self._all is None or now is None:
            return OtherWork(cores=len(self._cores), busy=None)
        others = now - self._all - (_own_seconds() - self._own)
        share = others / passed
        return OtherWork(cores=len(self._cores), busy=None if share < -ROUNDING else max(0.0, share))

    def _read(self) -> float | None:
        return busy_seconds(_STATISTICS.read_text(), self._cores) if _STATISTICS.is_file() else None


def busy_seconds(statistics: str, cores: set[int]) -> float:
    """What these cores have worked since the machine started, the hypervisor's theft included.

    Args:
        statistics: the content of /proc/stat.
    """
    ticks = 0
    for line in re.findall(r"^cpu\d+ .*$", statistics, re.MULTILINE):
        name, *columns = line.split()
        if int(name.removeprefix("cpu")) in cores:
            ticks += sum(int(value) for index, value in enumerate(columns[:_GUEST]) if index not in _IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _own_seconds() -> float:
    """Of this process and of children that have been waited for."""
    return sum(os.times()[:4])
