"""The op's kernels behind their plain C names (`device_api.h`), for NumPy arrays.

Needs neither torch nor CUDA for Python: memory comes from the library itself. The same class drives the build for a GPU
and the one that runs the kernels' source on a CPU (`build_kernels_on_cpu`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op.conventions import OpAttributes

Array = NDArray[Any]
ELEMENTS = {"float32": 0, "float16": 1, "bfloat16": 2}
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_WIDE, _FLOAT = ctypes.c_longlong, ctypes.c_float
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "kdguard_svd_perturb": (_INT, *[_POINTER] * 3, _FLOAT, *[_POINTER] * 5),
    "kdguard_gram": (_INT, *[_POINTER] * 6),
    "kdguard_project": (_WIDE, _INT, _INT, *[_POINTER] * 4),
    "kdguard_svd_restore": (_INT, _WIDE, *[_POINTER] * 4),
    "kdguard_svd_perturb_scratch": (_POINTER, _POINTER),
    "kdguard_top_k_projector_scratch": (_WIDE, _INT, _INT),
    "kdguard_allocate": (_POINTER, _SIZE),
    "kdguard_free": (_POINTER,),
    "kdguard_copy_to_device": (_POINTER, _POINTER, _SIZE),
    "kdguard_copy_to_host": (_POINTER, _POINTER, _SIZE),
    "kdguard_copy_on_device": (_POINTER, _POINTER, _SIZE, _POINTER),
    "kdguard_synchronize": (),
    "kdguard_describe_device": (ctypes.c_char_p, _SIZE),
    "kdguard_create_event": (_POINTER,),
    "kdguard_destroy_event": (_POINTER,),
    "kdguard_record_event": (_POINTER, _POINTER),
    "kdguard_milliseconds_between": (_POINTER, _POINTER, _POINTER),
    "kdguard_cuda_obstacle": (),
    "kdguard_error_text": (_INT,),
}


class Settings(ctypes.Structure):
    """As in settings.h."""

    _fields_ = (
        ("rank", ctypes.c_int),
        ("gain", ctypes.c_float),
        ("centred", ctypes.c_int),
        ("adaptive", ctypes.c_float),
        ("modulation", ctypes.c_int),
        ("pattern", ctypes.c_void_p),
        ("pattern_size", ctypes.c_longlong),
        ("coherence", ctypes.c_float),
        ("stride", ctypes.c_int),
    )


class MapShape(ctypes.Structure):
    """As in map_shape.h."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("images", "channels", "rows", "run"))

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> MapShape:
        """Of a map [N, C, spatial...]."""
        return cls(shape[0], shape[1], shape[2], int(np.prod(shape[3:], dtype=np.int64)))


class DeviceError(RuntimeError):
    """The CUDA runtime refused a call."""


class DeviceLibrary:
    """A build of device_api.cu.

    Raises:
        OSError: the file is no library.
        AttributeError: it is another library.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        for name, arguments in _ARGUMENTS.items():
            getattr(self._library, name).argtypes = arguments
        self._library.kdguard_error_text.restype = ctypes.c_char_p
        for name in ("kdguard_svd_perturb_scratch", "kdguard_top_k_projector_scratch"):
            getattr(self._library, name).restype = _SIZE

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that answers with an error code.

        Raises:
            DeviceError: the code is not 0.
        """
        if code := getattr(self._library, name)(*arguments):
            raise DeviceError(f"{name}: {self._library.kdguard_error_text(code).decode()}")

    def release(self, name: str, handle: Any, *, quietly: bool = False) -> None:
        """Give back what another call made.

        Args:
            quietly: something has failed before. After a fault on the device every call fails, and the first is the one
                to be told of.

        Raises:
            DeviceError: it cannot be given back, and that is not to be kept quiet.
        """
        if quietly:
            getattr(self._library, name)(handle)
        else:
            self.call(name, handle)

    def obstacle(self) -> str:
        """Why kernels cannot run on the current device; empty where they can."""
        code = self._library.kdguard_cuda_obstacle()
        return self._library.kdguard_error_text(code).decode() if code else ""

    def describe(self) -> str:
        """The device's name."""
        text = ctypes.create_string_buffer(256)
        self.call("kdguard_describe_device", text, len(text))
        return text.value.decode()

    @contextmanager
    def memory(self, size: int) -> Iterator[int]:
        """The address of that many bytes on the device."""
        address = ctypes.c_void_p()
        self.call("kdguard_allocate", ctypes.byref(address), max(size, 1))
        try:
            yield address.value or 0
        except BaseException:
            self.release("kdguard_free", address, quietly=True)
            raise
        self.release("kdguard_free", address)

    @contextmanager
    def upload(self, array: Array) -> Iterator[int]:
        """The address of a copy on the device."""
        array = np.ascontiguousarray(array)
        with self.memory(array.nbytes) as address:
            self.call("kdguard_copy_to_device", address, array.ctypes.data, array.nbytes)
            yield address

    def download(self, address: int, shape: tuple[int, ...], dtype: Any) -> Array:
        """A copy of what lies on the device, once it has finished all its work."""
        array = np.empty(shape, dtype)
        self.call("kdguard_synchronize")
        self.call("kdguard_copy_to_host", array.ctypes.data, address, array.nbytes)
        return array

    @contextmanager
    def prepared(self, attributes: OpAttributes, shape: tuple[int, ...]) -> Iterator[tuple[Settings, MapShape, int]]:
        """Settings, shape and scratch memory for maps of one shape."""
        with self.upload(np.array(attributes.pattern, np.float32)) as pattern:
            settings = Settings(
                rank=attributes.rank,
                gain=attributes.gain,
                centred=attributes.centred,
                adaptive=attributes.adaptive,
                modulation=attributes.modulation,
                pattern=pattern,
                pattern_size=len(attributes.pattern),
                coherence=attributes.coherence,
                stride=attributes.stride,
            )
            map_shape = MapShape.of(shape)
            needed = self._library.kdguard_svd_perturb_scratch(ctypes.byref(settings), ctypes.byref(map_shape))
            with self.memory(needed) as scratch:
                yield settings, map_shape, scratch

    def queue_perturb(
        self,
        dtype: str,
        prepared: tuple[Settings, MapShape, int],
        addresses: tuple[int, int, int | None],
        *,
        strength: int | None = None,
        stated: float = 1.0,
        stream: int | None = None,
    ) -> None:
        """Queue `SvdPerturb` on a stream.

        Args:
            dtype: of the map, one of `ELEMENTS`.
            prepared: by `prepared`.
            addresses: of X, Y and the change on the device; None where nobody wants the change.
            strength: address of a float on the device; without it `stated` is the strength.
            stream: as the CUDA runtime knows it; None is its default stream.
        """
        settings, shape, scratch = prepared
        source, output, change = addresses
        self.call(
            "kdguard_svd_perturb",
            ELEMENTS[dtype],
            ctypes.byref(settings),
            ctypes.byref(shape),
            strength,
            stated,
            source,
            output,
            change,
            scratch,
            stream,
        )

    def perturb(
        self,
        X: Array,
        attributes: OpAttributes,
        strength: float | None = None,
        *,
        on_device: bool = True,
        restorable: bool = True,
    ) -> tuple[Array, Array | None]:
        """Y and the change of `SvdPerturb`.

        Args:
            X: [N, C, spatial...] of float32, float16, or ml_dtypes' bfloat16.
            strength: None is 1.
            on_device: whether the strength is read from device memory.
        """
        stated = 1.0 if strength is None else strength
        with (
            self.prepared(attributes, X.shape) as prepared,
            self.upload(X) as source,
            self.upload(np.array([stated], np.float32)) as factor,
            self.memory(X.nbytes) as output,
            self.memory(X.size * 4) as change,
        ):
            self.queue_perturb(
                X.dtype.name,
                prepared,
                (source, output, change if restorable else None),
                strength=factor if on_device and strength is not None else None,
                stated=stated,
            )
            found = self.download(output, X.shape, X.dtype)
            return found, self.download(change, X.shape, np.float32) if restorable else None

    def gram(self, X: Array, attributes: OpAttributes) -> Array:
        """Gram matrices [N, C, C], float32."""
        sides = (X.shape[0], X.shape[1], X.shape[1])
        with (
            self.prepared(attributes, X.shape) as (settings, shape, scratch),
            self.upload(X) as source,
            self.memory(int(np.prod(sides)) * 4) as gram,
        ):
            element = ELEMENTS[X.dtype.name]
            self.call("kdguard_gram", element, ctypes.byref(settings), ctypes.byref(shape), source, gram, scratch, None)
            return self.download(gram, sides, np.float32)

    def project(self, gram: Array, rank: int) -> Array:
        """gram [N, C, C] -> vectors [N, C, k]."""
        images, channels = gram.shape[:2]
        shape = (images, channels, rank)
        needed = self._library.kdguard_top_k_projector_scratch(images, channels, rank)
        with (
            self.upload(gram) as source,
            self.memory(int(np.prod(shape)) * 4) as vectors,
            self.memory(needed) as scratch,
        ):
            self.call("kdguard_project", images, channels, rank, source, vectors, scratch, None)
            return self.download(vectors, shape, np.float32)

    def restore(self, Y: Array, change: Array) -> Array:
        """X of `SvdRestore`, in place on the device."""
        with self.upload(Y) as map_, self.upload(change) as by:
            self.call("kdguard_svd_restore", ELEMENTS[Y.dtype.name], Y.size, map_, by, map_, None)
            return self.download(map_, Y.shape, Y.dtype)
