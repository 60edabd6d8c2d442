"""The verdict says what the figures allow, and no more."""

from __future__ import annotations

import pytest

from kdguard.runtime.manifest import Coverage, Manifest
from kdguard.runtime.red_team.scoreboard import SummaryEntry
from kdguard.runtime.report.summary import Verdict, conclude
from tests.runtime.report.made_up import entry, fidelity, layer, manifest, scoreboard, strip, tiling


def verdict(*entries: SummaryEntry, loss: float = 0.0, made: Manifest | None = None) -> Verdict:
    return conclude(fidelity(loss), scoreboard(*entries), made or manifest())


OUTPUT = entry("output-l1", "T0", 0.01, 0.09)


@pytest.mark.parametrize(
    ("drop", "ci95", "diverged", "reading"),
    [
        (5.0, 1.8, 0, "hardening hurts this student"),
        (-5.0, 1.8, 0, "hardening helps this student"),
        (0.01, 0.09, 0, "no measurable effect"),
        (0.49, 0.5, 0, "the interval is wider than the drop"),
        (3.5, 21.0, 0, "the interval is wider than the drop"),
        (5.0, None, 0, "one seed gives no interval"),
        (5.0, 1.8, 1, "1 student diverged"),
    ],
)
def test_reading_of_a_drop(drop: float, ci95: float | None, diverged: int, reading: str) -> None:
    result = verdict(OUTPUT, entry("fitnets", "T1", drop, ci95, diverged))
    (finding,) = (line for line in result.findings if line.startswith("T1 fitnets"))
    assert reading in finding
    assert ("fitnets (T1) loses 5.00 dB" in result.headline) == (reading == "hardening hurts this student")


def test_headline_gives_the_best_response_beside_the_largest_drop() -> None:
    result = verdict(OUTPUT, entry("fitnets", "T1", 5.0, 1.8))
    assert result.status == "pass"
    assert result.headline == "Fidelity holds. fitnets (T1) loses 5.00 dB; the best response loses 0.01 dB."


def test_a_gain_is_not_called_a_loss() -> None:
    better = entry("output-l1", "T0", -0.3, 0.1)
    assert verdict(better, entry("fitnets", "T1", 5.0, 1.8)).headline.endswith("the best response gains 0.30 dB.")


def test_a_failed_gate_comes_first() -> None:
    result = verdict(OUTPUT, loss=0.3)
    assert result.status == "fail"
    assert result.headline.startswith("Do not ship")
    assert "outside the budget" in result.findings[0]
    assert "Failed: loss 0.300 dB is over the budget" in result.findings[0]


def test_untried_output_attack_is_called_out() -> None:
    assert any("no output-only recipe (T0) ran" in line for line in verdict(entry("fitnets", "T1", 5, 1)).findings)
    assert not any("no output-only" in line for line in verdict(OUTPUT).findings)


def t1s(made: Manifest) -> str:
    (finding,) = (line for line in verdict(OUTPUT, made=made).findings if line.startswith("T1s"))
    return finding


def test_paired_nodes_are_said_to_be_undone() -> None:
    measured = t1s(manifest(strip=strip(0.0)))
    assert "0.00 dB below the hardened model on 6 calibration images; paired nodes are undone by deleting" in measured
    assert "not measured in this run: paired nodes are undone" in t1s(manifest())


def test_stripping_and_refitting_stand_in_one_sentence() -> None:
    made = manifest(layer(), layer("e", "compensated"), strip=strip(2.5, -0.03))
    assert t1s(made) == (
        "T1s: deleting every node of ours leaves the attacker 2.50 dB below the hardened model on 6 calibration "
        "images, 0.03 dB above it after refitting the readers on 4 unlabeled images; compensated nodes count against "
        "naive removal only."
    )


def test_in_path_nodes_are_no_barrier() -> None:
    finding = t1s(manifest(layer(placement="in-path"), strip=strip(-0.05)))
    assert "0.05 dB above the hardened model" in finding
    assert finding.endswith("in-path nodes are undone by deleting them.")


def test_coverage_names_its_tier() -> None:
    findings = verdict(OUTPUT, made=manifest(coverage=Coverage(perturbed=1, taps=6))).findings
    assert any(line.startswith("T1 coverage: 1 of 6 taps") and "misleads" in line for line in findings)


@pytest.mark.parametrize(("hardened_db", "told"), [(60.0, True), (76.5, False)])
def test_seams_are_told(hardened_db: float, told: bool) -> None:
    findings = verdict(OUTPUT, made=manifest(tiling=tiling(hardened_db))).findings
    assert any("set harden.tile_safe: true" in line for line in findings) == told
