"""NVIDIA GPUs, asked of the machine and its driver: no package has to be installed for it."""

from __future__ import annotations

import ctypes
from pathlib import Path

DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


def has_gpu() -> bool:
    """Whether a driver has left its devices, or Windows lends one; what runs on it only a built session tells."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def compute_capability() -> str | None:
    """Of the first GPU, `8.9` say; None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    device, value = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        numbers.append(str(value.value))
    return ".".join(numbers)
