"""Students of every family and size."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from kdguard.runtime.students import SHAPES, Family, Size, build_student

FAMILIES, SIZES = get_args(Family), get_args(Size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_shapes(family: Family, size: Size, scale: int) -> None:
    """Also of images whose sides no halving divides, and of one smaller than the padding."""
    student = build_student(family, size, 3, scale)
    for height, width in ((10, 13), (1, 2)):
        restoration = student.restore(torch.zeros(2, 3, height, width))
        assert restoration.output.shape == (2, 3, height * scale, width * scale)
        for maps, channels in zip(restoration.maps, student.map_channels, strict=True):
            assert maps.shape == (2, channels, height, width)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_grow(family: Family) -> None:
    assert set(SHAPES[family]) == set(SIZES)
    small, medium, large = (sum(p.numel() for p in build_student(family, size, 3, 1).parameters()) for size in SIZES)
    assert 5_000 < small < 40_000 < 4 * small < medium < 200_000 < 4 * medium < large < 1_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shallow_map_depends_on_less_than_the_deep_one(family: Family) -> None:
    """Recipes that distrust the teacher let it reach the shallow map only."""
    student = build_student(family, "small", 3, 1)
    student.restore(torch.rand(1, 3, 16, 16)).maps[0].sum().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached
    assert not any(name.startswith("tail") for name in reached)
    assert len(reached) < len(list(student.parameters())) / 2
