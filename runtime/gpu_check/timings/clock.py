"""Medians of things that take turns, by the GPU's own clock."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable, Mapping

from kdguard.runtime.kernels.device_library import DeviceLibrary

WARM_UP = 3


class EventClock:
    """Two CUDA events on the default stream."""

    def __init__(self, library: DeviceLibrary) -> None:
        self._library = library
        self._events = (ctypes.c_void_p(), ctypes.c_void_p())

    def __enter__(self) -> EventClock:
        for event in self._events:
            self._library.call("kdguard_create_event", ctypes.byref(event))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for event in self._events:
            self._library.release("kdguard_destroy_event", event, quietly=kind is not None)

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Time between the two events around what `work` queues on the default stream."""
        first, second = self._events
        self._library.call("kdguard_record_event", first, None)
        work()
        self._library.call("kdguard_record_event", second, None)
        found = ctypes.c_float()
        self._library.call("kdguard_milliseconds_between", first, second, ctypes.byref(found))
        return found.value


def medians(
    works: Mapping[str, Callable[[], object]], measure: Callable[[Callable[[], object]], float], rounds: int
) -> dict[str, float]:
    """Median milliseconds of each, in turns; the first turns do not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(WARM_UP + rounds):
        for name, work in works.items():
            taken = measure(work)
            if turn >= WARM_UP:
                times[name].append(taken)
    return {name: round(statistics.median(each), 5) for name, each in times.items()}
