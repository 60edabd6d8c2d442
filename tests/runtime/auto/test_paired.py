"""The rules by which paired layers are chosen, on analyses made up to be told apart by one number."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.op.conventions import Modulation
from kdguard.graph_passes.op.keys import draw_key
from kdguard.runtime.analysis import Analysis, LayerAnalysis
from kdguard.runtime.auto.paired import (
    CHOSEN,
    MAX_GAIN,
    MIN_GAIN,
    TARGET_DISTORTION,
    choose_paired,
    covered,
    eligible,
    expected_distortion,
    gain_for,
    pair_cost,
    paired_attributes,
)

MILLION = 1_000_000


def layer(name: str, depth: float, **changes: object) -> LayerAnalysis:
    shares = {1: 0.3, 2: 0.5, 4: 0.7, 8: 0.9}
    plain: dict[str, object] = {
        "name": name, "op_type": "Relu", "readers": ["Conv"], "shape": [1, 16, 96, 96], "depth": depth,
        "dtype": "float32", "values": MILLION, "energy": 1.0, "variation": 0.5, "energy_share": shares,
        "centred_share": shares, "subspace_variation": 0.1,
    }  # fmt: skip
    return LayerAnalysis.model_validate(plain | changes)


def analysis(*layers: LayerAnalysis, cost: float = 1e12) -> Analysis:
    return Analysis(
        input_shape=[1, 3, 96, 96], images=2, whole_shape=[1, 3, 96, 96], cost=cost, layers=list(layers), skipped={}
    )


def names(found: Analysis, spare: float = 0.0, max_slowdown: float = 1.0) -> list[str]:
    return [entry.layer for entry in choose_paired(found, spare, max_slowdown)]


@pytest.mark.parametrize(
    "change",
    [{"dead": True}, {"influences": False}, {"shape": [1, 7, 96, 96]}, {"variation": 1e-6}],
)
def test_rule_1_what_is_not_eligible(change: dict[str, object]) -> None:
    assert eligible(layer("x", 0.5))
    assert not eligible(layer("x", 0.5, **change))
    assert names(analysis(layer("bad", 0.5, **change), layer("good", 0.9))) == ["good"]


def test_rule_2_one_map_per_depth() -> None:
    spread = [layer(f"at_{percent}", percent / 100) for percent in range(0, 101, 10)]
    assert names(analysis(*spread)) == ["at_30", "at_50", "at_70"]


def test_rule_2_the_cheapest_within_reach_and_the_nearer_of_equals() -> None:
    far_but_cheap = layer("cheap", 0.41, values=MILLION // 2)
    out_of_reach = layer("cheapest", 0.10, values=1000)
    found = analysis(out_of_reach, layer("near", 0.33), far_but_cheap, layer("half", 0.52), layer("late", 0.67))
    assert names(found) == ["cheap", "half", "late"]
    even = analysis(layer("farther", 0.60), layer("nearer", 0.65), layer("third", 0.33), layer("half", 0.5))
    assert names(even) == ["nearer", "third", "half"]  # in the order of the analysis


def test_rule_2_between_a_convolution_and_its_activation_costs_more() -> None:
    fused = layer("fused", 0.5, op_type="Conv", readers=["Relu"])
    assert pair_cost(fused) > pair_cost(layer("plain", 0.5))
    assert pair_cost(layer("x", 0.5, op_type="Conv", readers=["Relu", "Add"])) == pair_cost(layer("plain", 0.5))
    assert names(analysis(layer("third", 0.3), fused, layer("plain", 0.55), layer("late", 0.7))) == [
        "third", "plain", "late",
    ]  # fmt: skip


def test_rule_2_takes_the_nearest_where_nothing_is_near() -> None:
    assert names(analysis(layer("first", 0.0), layer("last", 1.0))) == ["first", "last"]
    assert names(analysis(layer("only", 0.99))) == ["only"]
    assert names(analysis(layer("dead", 0.5, dead=True))) == []


def test_rule_2_says_whether_a_map_is_near() -> None:
    found = choose_paired(analysis(layer("near", 0.3), layer("far", 0.9)), 0.0, 1.0)
    assert [entry.reason for entry in found] == [
        "cheapest map near depth 0.33 (it lies at 0.30)",
        "none is left within an eighth of it: nearest map to depth 0.67 (it lies at 0.90)",
    ]


def test_rule_3_covers_more_while_time_allows() -> None:
    sizes = {"a": 3, "b": 1, "c": 2}
    extra = [layer(name, 0.45 + i / 100, values=size * MILLION) for i, (name, size) in enumerate(sizes.items())]
    three = [layer(name, depth, values=1000) for name, depth in (("third", 0.34), ("half", 0.5), ("late", 0.66))]
    found = analysis(*three, *extra, layer("outside", 0.2, values=2000))
    spent = sum(pair_cost(entry) for entry in three)
    costs = {entry.name: pair_cost(entry) for entry in extra}

    def limit(*more: str) -> float:
        return 1 + (spent + sum(costs[name] for name in more)) / found.cost + 1e-9

    first = ["third", "half", "late"]
    assert names(found, max_slowdown=1.0) == first
    assert names(found, max_slowdown=limit("b")) == [*first, "b"]
    assert names(found, max_slowdown=limit("b", "c")) == [*first, "b", "c"]
    assert names(found, max_slowdown=limit("b", "c", "a")) == [*first, "a", "b", "c"]
    assert names(found, spare=costs["b"], max_slowdown=limit("b")) == first
    assert covered(found, [*first, "b", "outside"]) == (4, 6)


def test_rule_4_what_the_nodes_carry() -> None:
    first, second = (paired_attributes(layer(name, 0.5), 12.5, seed=3) for name in ("x", "y"))
    assert (first.rank, first.centred, first.modulation, first.gain) == (1, True, Modulation.TAIL_SIGN, 12.5)
    assert first.stride == 5
    assert first.pattern != second.pattern
    assert first == paired_attributes(layer("x", 0.5), 12.5, seed=3)
    assert first.pattern != paired_attributes(layer("x", 0.5), 12.5, seed=4).pattern


def drawn_map() -> tuple[np.ndarray, LayerAnalysis]:
    """A map [1, 16, 64, 64] whose channels are drawn apart, and its analysis."""
    rng = np.random.default_rng(0)
    F = np.diag([3.0, 1.5, *[0.7] * 14]) @ rng.standard_normal((16, 64 * 64)) + 0.5
    centred = F - F.mean(axis=1, keepdims=True)

    def shares(values: np.ndarray) -> dict[int, float]:
        spectrum = np.linalg.svd(values, compute_uv=False) ** 2
        return {k: float(spectrum[:k].sum() / spectrum.sum()) for k in (1, 2, 4, 8)}

    measured = {"variation": float(np.mean(centred**2)), "energy": float(np.mean(F**2))}
    entry = layer("x", 0.5, **measured, centred_share=shares(centred), energy_share=shares(F))
    return F.reshape(1, 16, 64, 64), entry


ALTERNATING = draw_key(Modulation.PATTERN, seed=0)


@pytest.mark.parametrize(
    ("attributes", "tolerance"),
    [
        (CHOSEN.model_copy(update={"pattern": draw_key(Modulation.TAIL_SIGN, seed=1)}), 0.05),
        (SvdPerturbAttributes(), 1e-3),
        (SvdPerturbAttributes(rank=1), 1e-3),
        (SvdPerturbAttributes(rank=2, centred=True), 1e-3),
        (SvdPerturbAttributes(rank=2, adaptive=0.5), 1e-3),
        (SvdPerturbAttributes(rank=3, centred=True), 0.02),
        (SvdPerturbAttributes(rank=11, centred=True, adaptive=1.0), 0.02),
        (SvdPerturbAttributes(rank=16), 1e-3),
        (SvdPerturbAttributes(rank=4, modulation=Modulation.PATTERN, pattern=ALTERNATING), 0.02),
        (SvdPerturbAttributes(rank=2, coherence=0.5), 0.02),
        (SvdPerturbAttributes(rank=2, coherence=1.5, centred=True), 0.02),
        (SvdPerturbAttributes(rank=4, coherence=1000.0), 1e-3),
    ],
)
def test_rule_5_predicts_what_the_op_does(attributes: SvdPerturbAttributes, tolerance: float) -> None:
    """Against the reference; roughly where a key decides, or the spectrum is known on both sides of the rank only."""
    X, entry = drawn_map()
    for gain in (10.0, 25.0):
        inserted = attributes.model_copy(update={"gain": gain})
        moved = np.linalg.norm(reference.svd_perturb(X, inserted).change) / np.linalg.norm(X)
        assert moved == pytest.approx(expected_distortion(entry, inserted), rel=tolerance)


def expected(entry: LayerAnalysis, gain: float) -> float:
    return expected_distortion(entry, paired_attributes(entry, gain, seed=0))


def test_rule_5_gains() -> None:
    assert gain_for(layer("lively", 0.5)) == MIN_GAIN
    quiet = layer("quiet", 0.5, variation=0.01)
    gain = gain_for(quiet)
    assert gain is not None
    assert MIN_GAIN < gain < MAX_GAIN
    assert expected(quiet, gain) >= TARGET_DISTORTION * 0.999
    assert expected(quiet, gain / 1.26) < TARGET_DISTORTION
    assert gain_for(layer("quieter", 0.5, variation=0.0004)) == MAX_GAIN
    assert gain_for(layer("silent", 0.5, variation=0.0001)) is None


def test_a_cap_lowers_the_aim_and_never_the_gain_below_the_least() -> None:
    quiet = layer("quiet", 0.5, variation=0.01)
    free = gain_for(quiet)
    assert free is not None
    assert gain_for(quiet, CHOSEN.model_copy(update={"coherence": 1000.0})) == free
    half = gain_for(quiet, CHOSEN.model_copy(update={"coherence": 15.0}))  # 1.5 of the whole map's norm
    assert half is not None
    assert MIN_GAIN < half < free
    assert gain_for(quiet, CHOSEN.model_copy(update={"coherence": 0.5})) == MIN_GAIN
