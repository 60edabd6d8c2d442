"""Closed-form refits against a direct least-squares solution on patches that torch cuts out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.refit_consumers import ConvReader
from kdguard.runtime.compensation.statistics import RIDGE, RefitStatistics, top_part

CHANNELS, OUTPUTS = 6, 4
GEOMETRIES = {
    "plain": {},
    "padded": {"pads": (1, 1, 1, 1)},
    "unequal padding": {"pads": (0, 1, 2, 0)},
    "strided": {"strides": (2, 3), "pads": (1, 1, 1, 1)},
    "dilated": {"dilations": (1, 2), "pads": (1, 2, 1, 2)},
    "grouped": {"group": 2, "pads": (1, 1, 1, 1)},
    "all at once": {"group": 2, "strides": (2, 1), "dilations": (2, 1), "pads": (2, 0, 1, 1)},
}


def make_reader(kernel: tuple[int, int] = (3, 3), **geometry: object) -> ConvReader:
    rng = np.random.default_rng(0)
    known = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1} | geometry
    weight = rng.standard_normal((OUTPUTS, CHANNELS // int(known["group"]), *kernel))  # type: ignore[call-overload]
    return ConvReader("m", weight, rng.standard_normal(OUTPUTS), **known)  # type: ignore[arg-type]


def maps(count: int = 3, side: int = 12) -> list[np.ndarray]:
    """Correlated channels with a mean, as features are."""
    rng = np.random.default_rng(1)
    mix = np.linalg.qr(rng.standard_normal((CHANNELS, CHANNELS)))[0] * np.geomspace(1, 0.2, CHANNELS)
    values = [np.einsum("dc,chw->dhw", mix, rng.standard_normal((CHANNELS, side, side))) + 0.5 for _ in range(count)]
    return [value.astype(np.float32) for value in values]


def convolve(reader: ConvReader, F: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    top, left, bottom, right = reader.pads
    padded = torch.nn.functional.pad(torch.from_numpy(F.astype(np.float64))[None], (left, right, top, bottom))
    answer = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight), torch.from_numpy(bias), reader.strides, 0, reader.dilations, reader.group
    )
    return answer[0].numpy()


def patch_rows(reader: ConvReader, F: np.ndarray) -> np.ndarray:
    """[positions, C * kh * kw + 1] of one map: torch's unfold, and ones."""
    top, left, bottom, right = reader.pads
    padded = torch.nn.functional.pad(torch.from_numpy(F.astype(np.float64))[None], (left, right, top, bottom))
    rows = torch.nn.functional.unfold(padded, reader.weight.shape[2:], reader.dilations, 0, reader.strides)[0].T
    return np.concatenate([rows.numpy(), np.ones((len(rows), 1))], axis=1)


def collected(reader: ConvReader, attributes: SvdPerturbAttributes, images: list[np.ndarray]) -> RefitStatistics:
    statistics = RefitStatistics(reader)
    for F in images:
        statistics.add(F, top_part(F, attributes))
    return statistics


def energy(values: list[np.ndarray]) -> float:
    return float(sum(np.sum(value**2) for value in values))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(("seen", "wanted"), [(-0.6, 0.0), (0.0, 1.5)])
def test_against_least_squares_on_patches(name: str, seen: float, wanted: float) -> None:
    reader, plain, images = make_reader(**GEOMETRIES[name]), SvdPerturbAttributes(rank=2), maps()
    found = collected(reader, plain, images).refit(reader, seen, wanted)
    read, asked = ([F + e * top_part(F, plain) for F in images] for e in (seen, wanted))
    targets = [convolve(reader, F, reader.weight, reader.bias) for F in asked]
    per_group, size = OUTPUTS // reader.group, reader.weight[0].size
    whole = np.concatenate([patch_rows(reader, F) for F in read])
    for group in range(reader.group):
        rows = np.concatenate([whole[:, group * size : (group + 1) * size], whole[:, -1:]], axis=1)
        mine = slice(group * per_group, (group + 1) * per_group)
        goal = np.concatenate([target[mine].reshape(per_group, -1).T for target in targets])
        solution = np.linalg.lstsq(rows, goal, rcond=None)[0]
        np.testing.assert_allclose(found.weight[mine].reshape(per_group, -1), solution[:-1].T, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(found.bias[mine], solution[-1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["padded", "all at once"])
def test_what_it_says_about_itself_is_what_the_convolution_does(name: str) -> None:
    reader, plain, images = make_reader(**GEOMETRIES[name]), SvdPerturbAttributes(rank=2), maps()
    found = collected(reader, plain, images).refit(reader, 2.0)
    clean = [convolve(reader, F, reader.weight, reader.bias) for F in images]
    hardened = [convolve(reader, F + 2 * top_part(F, plain), found.weight, found.bias) for F in images]
    stripped = [convolve(reader, F, found.weight, found.bias) for F in images]
    left, lost = (
        energy([a - b for a, b in zip(got, clean, strict=True)]) / energy(clean) for got in (hardened, stripped)
    )
    assert found.left_over == pytest.approx(left, rel=1e-3)
    assert found.stripped == pytest.approx(lost, rel=1e-3)
    assert 1e-4 < found.left_over < found.stripped


def test_the_refit_is_better_than_the_old_weights() -> None:
    reader, plain, images = make_reader(pads=(1, 1, 1, 1)), SvdPerturbAttributes(rank=2), maps()
    found = collected(reader, plain, images).refit(reader, 2.0)
    clean = [convolve(reader, F, reader.weight, reader.bias) for F in images]
    as_it_was = [convolve(reader, F + 2 * top_part(F, plain), reader.weight, reader.bias) for F in images]
    assert found.left_over < 0.3 * energy([a - b for a, b in zip(as_it_was, clean, strict=True)]) / energy(clean)


@pytest.mark.parametrize("excess", [3.0, -0.5])
@pytest.mark.parametrize("group", [1, 2])
def test_a_gain_on_every_component_is_undone_exactly(excess: float, group: int) -> None:
    """Rank >= channels: the map is 1 + e times itself, and dividing the weights by that leaves nothing over."""
    reader, everything = make_reader(pads=(1, 1, 1, 1), group=group), SvdPerturbAttributes(rank=8)
    found = collected(reader, everything, maps()).refit(reader, excess)
    assert found.left_over < 1e-7
    np.testing.assert_allclose(found.weight, reader.weight / (1 + excess), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.bias, reader.bias, rtol=1e-3, atol=1e-3)
    clean = [convolve(reader, F, reader.weight, reader.bias) for F in maps()]
    lost = [convolve(reader, F, reader.weight * -excess / (1 + excess), reader.bias * 0) for F in maps()]
    assert found.stripped == pytest.approx(energy(lost) / energy(clean), rel=1e-2)


def test_an_attackers_refit_gives_the_outputs_back() -> None:
    """The defender's weights read the perturbed map; seen=0, wanted=e makes the stripped map do for them."""
    reader, plain, images = make_reader(pads=(1, 1, 1, 1)), SvdPerturbAttributes(rank=2), maps()
    statistics = collected(reader, plain, images)
    defence = statistics.refit(reader, 2.0)
    shipped = ConvReader("m", defence.weight, defence.bias, reader.strides, reader.pads, reader.dilations, reader.group)
    attack = statistics.refit(shipped, seen=0.0, wanted=2.0)
    hardened = [convolve(reader, F + 2 * top_part(F, plain), defence.weight, defence.bias) for F in images]
    repaired = [convolve(reader, F, attack.weight, attack.bias) for F in images]
    error = energy([a - b for a, b in zip(repaired, hardened, strict=True)]) / energy(hardened)
    assert attack.left_over == pytest.approx(error, rel=1e-3)
    assert error < 0.1 * defence.stripped


def test_without_a_gain_nothing_changes() -> None:
    reader = make_reader(pads=(1, 1, 1, 1))
    found = collected(reader, SvdPerturbAttributes(rank=2), maps()).refit(reader, 0.0)
    np.testing.assert_allclose(found.weight, reader.weight, atol=1e-6)
    assert found.stripped < 1e-12


def test_without_evidence_the_old_weights_stay() -> None:
    """A dead channel says nothing about its weights: the ridge pulls towards the old ones."""
    reader = make_reader(pads=(1, 1, 1, 1))
    images = [F * np.array([1, 1, 1, 1, 1, 0], np.float32)[:, None, None] for F in maps()]
    found = collected(reader, SvdPerturbAttributes(rank=2), images).refit(reader, 2.0)
    np.testing.assert_allclose(found.weight[:, -1], reader.weight[:, -1], atol=1e-6)
    assert np.abs(found.weight[:, 0] - reader.weight[:, 0]).max() > 0.1
    assert RIDGE < 1e-5


def test_a_sample_of_patches_stands_for_all() -> None:
    reader, plain, images = make_reader((1, 1)), SvdPerturbAttributes(rank=2), maps(side=40)
    sampled, again, whole = RefitStatistics(reader), RefitStatistics(reader), RefitStatistics(reader)
    for F in images:
        for statistics, limit in ((sampled, 400), (again, 400), (whole, None)):
            statistics.add(F, top_part(F, plain), limit)
    assert (sampled.patches, whole.patches) == (1200, 4800)
    first, second, exact = (s.refit(reader, 1.0) for s in (sampled, again, whole))
    np.testing.assert_array_equal(first.weight, second.weight)
    assert not np.array_equal(first.weight, exact.weight)
    np.testing.assert_allclose(first.weight, exact.weight, atol=0.2)


@pytest.mark.parametrize("centred", [False, True])
def test_the_top_part_is_what_the_op_adds(centred: bool) -> None:
    attributes = SvdPerturbAttributes(rank=2, gain=3.0, centred=centred)
    F = maps(1)[0]
    change = reference.svd_perturb(F[None], attributes).change[0]
    np.testing.assert_allclose(2 * top_part(F, attributes), change, atol=1e-5 * np.abs(change).max())
