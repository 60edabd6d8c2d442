"""Image folders: `degraded/` and `clean/` with equal file names, or only `clean/`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from kdguard.export.errors import UserError
from kdguard.export.tasks import Image, Task

NEEDED = (
    "give a folder that holds clean/ and degraded/ with equal file names, or clean/ alone, which the task then degrades"
)
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImagePair:
    """One image before and after the degradation; float32 [H, W, C] in [0, 1]."""

    name: str
    degraded: Image
    clean: Image


def read_image(path: Path, channels: int) -> Image:
    """Read an image file as float32 [H, W, channels] in [0, 1]; alpha is dropped.

    Raises:
        UserError: not a readable image.
    """
    try:
        with PilImage.open(path) as image:
            return pixels_of(image, channels)
    except NotImplementedError as error:
        raise UserError(f"{path}: {error}; save it with 8 or 16 bits") from error
    except (UnidentifiedImageError, OSError, ValueError, PilImage.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error}); remove or replace it") from error


def pixels_of(image: PilImage.Image, channels: int) -> Image:
    """An opened image of 8 or 16 bits as float32 [H, W, channels] in [0, 1]; alpha is dropped.

    Raises:
        NotImplementedError: it holds floating-point values.
        OSError, ValueError: it is damaged.
    """
    if image.mode == "F":
        raise NotImplementedError("floating-point images are not read")
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image, dtype=np.float32)[..., None] / np.float32(65535)
        return np.repeat(values, channels, axis=-1)
    pixels = np.asarray(image.convert(_MODES[channels]), dtype=np.float32) / np.float32(255)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def load_degraded(folder: Path, channels: int) -> list[Image]:
    """Model inputs from a data folder: `degraded/`, or `clean/` where there is nothing else.

    Raises:
        UserError: neither folder there, empty, or an unreadable image.
    """
    for kind in ("degraded", "clean"):
        if (folder / kind).is_dir():
            return [read_image(path, channels) for path in _images_in(folder / kind).values()]
    if folder.is_file():
        raise UserError(f"{folder}: that is a file; give a folder that holds clean/ or degraded/")
    raise UserError(f"{folder}: no clean/ or degraded/ folder in it; give a folder that holds one of them")


def _images_in(folder: Path) -> dict[str, Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"{folder}: no images in it (looked for {', '.join(sorted(SUFFIXES))})")
    return {path.name: path for path in found}


def refuse_overlap(seen: list[ImagePair], test: list[ImagePair], seen_as: str) -> None:
    """Raise where a test image was seen before: scores on it would measure memory.

    Args:
        seen_as: what `seen` is, for the message: "training" or "calibration".

    Raises:
        UserError: names the first such image.
    """
    known = {pair.clean.tobytes(): pair.name for pair in seen}
    for pair in test:
        if pair.clean.tobytes() in known:
            raise UserError(
                f"test image {pair.name!r} is also a {seen_as} image ({known[pair.clean.tobytes()]!r}); keep them apart"
            )


def _crop_to_multiple(image: Image, multiple: int) -> Image:
    height, width = (side - side % multiple for side in image.shape[:2])
    return image[:height, :width]


def load_pairs(
    folder: Path, task: Task, channels: int = 3, scale: int = 1, seed: int = 0, limit: int | None = None
) -> list[ImagePair]:
    """Read a data folder; without `degraded/` the task makes its own, seeded by `seed` and position.

    Args:
        folder: holds `clean/`, and `degraded/` with the same file names where there are pairs.
        channels: 1 or 3, what the model takes.
        scale: size of the clean image over the degraded one.
        limit: read only so many.

    Raises:
        UserError: missing or empty folder, unmatched names or sizes, unreadable image.
    """
    if folder.is_file():
        raise UserError(f"{folder}: that is a file; {NEEDED}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {NEEDED}")
    if not (folder / "clean").is_dir():
        raise UserError(f"{folder}: no clean/ folder in it; {NEEDED}")
    clean = _images_in(folder / "clean")
    pairs = []
    if not (folder / "degraded").is_dir():
        for index, (name, path) in enumerate(list(clean.items())[:limit]):
            image = _crop_to_multiple(read_image(path, channels), scale)
            rng = np.random.default_rng([seed, index])
            pairs.append(ImagePair(name, task.degrade(image, rng, scale), image))
        return pairs
    degraded = _images_in(folder / "degraded")
    if lonely := sorted(set(clean) ^ set(degraded)):
        raise UserError(
            f"{folder}: {len(lonely)} of {len({*clean, *degraded})} images without a partner of the same name in "
            f"clean/ and degraded/, first {lonely[0]!r}; make the names equal"
        )
    for name in list(clean)[:limit]:
        pair = ImagePair(name, read_image(degraded[name], channels), read_image(clean[name], channels))
        pairs.append(_fit_clean(pair, folder, scale))
    return pairs


def _fit_clean(pair: ImagePair, folder: Path, scale: int) -> ImagePair:
    """The pair with its clean image at exactly `scale` times the degraded one's size.

    Published super-resolution sets keep up to scale - 1 rows and columns that no model restores.
    """
    height, width = (side * scale for side in pair.degraded.shape[:2])
    surplus = (pair.clean.shape[0] - height, pair.clean.shape[1] - width)
    if not all(0 <= pixels < scale for pixels in surplus):
        raise UserError(
            f"{folder}: {pair.name!r} is {_size(pair.degraded)} in degraded/ and {_size(pair.clean)} in clean/, "
            f"and the model's scale is {scale}: clean should be {width}x{height}; fix the pair"
        )
    return replace(pair, clean=pair.clean[:height, :width])


def _size(image: Image) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def hash_pairs(pairs: list[ImagePair]) -> str:
    """Hexadecimal SHA-256 over names and pixels, the data half of every cache key."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.name}{pair.degraded.shape}{pair.clean.shape}".encode())
        digest.update(np.ascontiguousarray(pair.degraded).tobytes())
        digest.update(np.ascontiguousarray(pair.clean).tobytes())
    return digest.hexdigest()
