"""Measurements, one file each. A timing yields medians; what raises `Skipped` was left out."""

from collections.abc import Callable, Iterator

from kdguard.runtime.gpu_check.context import Context
from kdguard.runtime.gpu_check.report import Timing
from kdguard.runtime.gpu_check.timings import device_copy, engine_latency, network_latency, torch_svd

TIMINGS: dict[str, Callable[[Context], Iterator[Timing]]] = {
    "device-copy": device_copy.measure,
    "torch-svd": torch_svd.measure,
    "network-latency": network_latency.measure,
    "engine-latency": engine_latency.measure,
}
