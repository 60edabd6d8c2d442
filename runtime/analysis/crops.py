"""Crops of calibration pairs: the same content at a fraction of the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard


def centre_crop(pair: ImagePair, card: ModelCard, side: int) -> ImagePair:
    """At most `side` pixels a side of the degraded image, a multiple of the model's size, from the middle."""
    multiple = card.size_multiple
    extents = [min(length, max(side, multiple)) for length in pair.degraded.shape[:2]]
    extents = [extent - extent % multiple if extent >= multiple else extent for extent in extents]
    (top, height), (left, width) = (
        ((length - extent) // 2, extent) for length, extent in zip(pair.degraded.shape[:2], extents, strict=True)
    )
    scale = card.scale
    return replace(
        pair,
        degraded=pair.degraded[top : top + height, left : left + width],
        clean=pair.clean[top * scale : (top + height) * scale, left * scale : (left + width) * scale],
    )


def spread(pairs: Sequence[ImagePair], count: int) -> list[ImagePair]:
    """At most `count` of the pairs, evenly spaced over their order."""
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[round(index * (len(pairs) - 1) / max(count - 1, 1))] for index in range(count)]


def centre_crops(pairs: Sequence[ImagePair], card: ModelCard, count: int, side: int) -> list[ImagePair]:
    """Centre crops of evenly spaced pairs."""
    return [centre_crop(pair, card, side) for pair in spread(pairs, count)]
