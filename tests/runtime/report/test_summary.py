"""The verdict says what the figures allow, and no more."""

from __future__ import annotations

import pytest

from kdguard.runtime.fidelity import FidelityReport, Quality
from kdguard.runtime.manifest import Manifest, ManifestLayer
from kdguard.runtime.report.summary import Verdict, conclude
from kdguard.runtime.scoreboard import Group, Scoreboard, SummaryEntry, _best_response


def entry(recipe: str, tier: str, drop: float, ci95: float | None, diverged: int = 0) -> SummaryEntry:
    return SummaryEntry(
        recipe=recipe,
        tier=tier,
        clean=Group(psnr=30.0, ssim=0.9, ci95=ci95),
        hardened=Group(psnr=30.0 - drop, ssim=0.8, ci95=ci95, diverged=diverged),
        drop_db=drop,
        drop_ci95=ci95,
        ssim_drop_pct=11.1,
    )


def verdict(*entries: SummaryEntry, loss: float = 0.0) -> Verdict:
    fidelity = FidelityReport(
        n=4,
        teacher=Quality(psnr=35.0, ssim=0.95),
        hardened=Quality(psnr=35.0 - loss, ssim=0.95),
        delta_psnr_db=loss,
        delta_ssim=0.0,
        psnr_between_db=120.0,
        psnr_between_floor_db=51.0,
        worst_margin_db=80.0,
        budget_db=0.1,
        finite=True,
        max_abs_difference=1e-5,
        within_budget=loss <= 0.1,
        provider="CPUExecutionProvider",
    )
    board = Scoreboard(
        rows=[],
        summary=list(entries),
        best_response=_best_response(entries),
        seeds=3,
        steps=10,
        student="residual-cnn",
        student_parameters=10,
        tap="d",
        test_images=4,
    )
    layer = ManifestLayer(
        layer="d",
        op_type="Add",
        placement="paired",
        rank=4,
        gain=10.0,
        centred=False,
        nodes=[],
        relative_distortion=5.0,
    )
    manifest = Manifest(
        kdguard_version="0",
        teacher="t",
        teacher_sha256="0",
        hardened="h",
        hardened_sha256="1",
        task="deraining",
        layers=[layer],
        budget_db=0.1,
        seed=0,
    )
    return conclude(fidelity, board, manifest)


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
