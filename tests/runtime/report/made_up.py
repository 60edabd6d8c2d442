"""Results that nobody measured, to see what the report makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdguard.runtime.bench.other_work import OtherWork
from kdguard.runtime.bench.results import Bench, Memory, OpAlone, OpShare, ProviderBench, Ratio, Speed, Timing
from kdguard.runtime.fidelity import FidelityReport, Quality
from kdguard.runtime.manifest import Manifest, ManifestLayer
from kdguard.runtime.red_team.scoreboard import BestResponse, BestStudent, Group, Scoreboard, SummaryEntry
from kdguard.runtime.report.environment import current_environment
from kdguard.runtime.strip import StripReport
from kdguard.runtime.tile_check import TilingReport


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


def fidelity(loss: float = 0.0) -> FidelityReport:
    return FidelityReport(
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
        kernels="function",
    )


def best_response(entries: Sequence[SummaryEntry]) -> BestResponse | None:
    """The best of both sides; none where only controls ran, or a side diverged."""
    clean = [e for e in entries if not e.clean.diverged]
    hardened = [e for e in entries if not e.hardened.diverged]
    if all(e.tier == "control" for e in entries) or not clean or not hardened:
        return None
    first, second = max(clean, key=lambda e: e.clean.psnr), max(hardened, key=lambda e: e.hardened.psnr)
    return BestResponse(
        clean=BestStudent(recipe=first.recipe, psnr=first.clean.psnr),
        hardened=BestStudent(recipe=second.recipe, psnr=second.hardened.psnr),
        drop_db=first.clean.psnr - second.hardened.psnr,
    )


def scoreboard(*entries: SummaryEntry) -> Scoreboard:
    return Scoreboard(
        rows=[],
        summary=list(entries),
        best_response=best_response(entries),
        seeds=3,
        steps=10,
        student="residual-cnn",
        student_parameters=10,
        tap="d",
        test_images=4,
    )


def layer(name: str = "d", placement: str = "paired", **more: Any) -> ManifestLayer:
    fields = {"op_type": "Add", "rank": 4, "gain": 10.0, "centred": False, "nodes": [], "relative_distortion": 5.0}
    return ManifestLayer.model_validate({"layer": name, "placement": placement, **fields, **more})


def manifest(*layers: ManifestLayer, **more: Any) -> Manifest:
    return Manifest(
        kdguard_version="0",
        teacher="t",
        teacher_sha256="0",
        hardened="h",
        hardened_sha256="1",
        task="deraining",
        layers=list(layers) or [layer()],
        budget_db=0.1,
        seed=0,
        **more,
    )


def strip(stripped: float, refitted: float | None = None) -> StripReport:
    return StripReport(
        n=6,
        hardened_psnr=35.0,
        stripped_psnr=35.0 - stripped,
        stripped_loss_db=stripped,
        refitted_psnr=None if refitted is None else 35.0 - refitted,
        refitted_loss_db=refitted,
        refit_images=0 if refitted is None else 4,
    )


def bench(slowdown: float, busy: float = 0.0) -> Bench:
    def timing(milliseconds: float) -> Timing:
        return Timing(median_ms=milliseconds, ci95_ms=(0.9 * milliseconds, 1.1 * milliseconds), n=21)

    def speed(milliseconds: float) -> Speed:
        return Speed(latency=timing(milliseconds), images_per_second=1000 / milliseconds, megapixels_per_second=1.5)

    case = OpAlone(
        layers=["relu_<1>", "relu_2"],
        shape=[1, 8, 48, 64],
        dtype="float32",
        rank=4,
        kernels="native",
        op=timing(3),
        plain_copy=timing(0.25),
        svd=timing(90),
        svd_threads=2,
        svd_lowrank=Timing(median_ms=30, n=1),
        svd_lowrank_threads=1,
        op_over_copy=Ratio(median=12, ci95=(11, 13), n=21),
        svd_over_op=Ratio(median=30, ci95=(29, 31), n=21),
        svd_lowrank_over_op=Ratio(median=10, n=1),
        svd_lowrank_error=0.01,
    )
    found = ProviderBench(
        provider="cpu",
        runs_on="CPUExecutionProvider",
        kernels="native",
        clean=speed(100),
        hardened=speed(100 * slowdown),
        slowdown=Ratio(median=slowdown, ci95=(slowdown - 0.02, slowdown + 0.03), n=21),
        memory=Memory(imports_mib=140, clean_mib=51, hardened_mib=62),
        device_memory_reason="none",
        op_share=OpShare(share=0.16, method="profiler"),
        op_alone=[case],
        op_not_measured={"wide": "it is bfloat16"},
    )
    return Bench(
        teacher="t.onnx",
        teacher_sha256="0",
        hardened="h.onnx",
        hardened_sha256="1",
        size=[48, 64],
        input_shape=[1, 3, 48, 64],
        rounds=21,
        threads=2,
        providers=[found],
        lacking={"cuda": "no GPU"},
        other_work=OtherWork(cores=2, busy=busy),
        environment=current_environment(),
    )


def tiling(hardened_db: float) -> TilingReport:
    return TilingReport(n=3, tile=64, overlap=8, clean_db=77.0, hardened_db=hardened_db)
