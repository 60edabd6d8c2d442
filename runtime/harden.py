"""`kdguard harden`: a plan, the passes, then the fidelity gates on the user's own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from kdguard.export.errors import GateFailedError, MissingDependencyError, UserError
from kdguard.export.files import check_outputs, to_json, write_text
from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.large_models import data_path, is_large
from kdguard.export.model_card import CardOverrides, ModelCard, read_card, write_card
from kdguard.export.onnx_files import default_opset, load_onnx, model_files, save_onnx, sha256_of_model
from kdguard.export.tasks import get_task
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.key_gate import read_gate
from kdguard.graph_passes.refit_consumers import conv_readers
from kdguard.runtime.auto.dispatch import Planned, make_plan
from kdguard.runtime.auto.options import HardenOptions
from kdguard.runtime.auto.slowdown import estimate_slowdown
from kdguard.runtime.distortion import feature_distortion, refuse_overflow
from kdguard.runtime.fidelity import FidelityReport, check_budget, measure_fidelity
from kdguard.runtime.manifest import Coverage, Manifest, describe_layers, find_manifest, manifest_path, tell_placements
from kdguard.runtime.resolve_card import guess_card, resolve_card
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.strip import REFIT_IMAGES, StripReport, measure_strip
from kdguard.runtime.terminal import progress_bar, say
from kdguard.runtime.tile_check import TilingReport, measure_tiling
from kdguard.runtime.upgrade import needs_upgrade, upgrade_checked

__all__ = ["HardenOptions", "harden", "manifest_path"]


def harden(
    teacher_path: Path,
    output: Path,
    options: HardenOptions,
    *,
    task: str | None = None,
    data: Path | None = None,
    manifest: Path | None = None,
    overrides: CardOverrides | None = None,
) -> Manifest:
    """Harden a model file; nothing is written where a gate fails.

    Args:
        data: image pairs to measure fidelity and distortion on; without them the manifest says
            that neither was measured.
        manifest: where to write the manifest, beside `output` by default.
        overrides: what the user says about the model, against its card.

    Raises:
        UserError: bad model, data, layers or output.
        GateFailedError: the hardened model is outside the budget on `data`.
    """
    manifest = manifest or manifest_path(output)
    check_budget(options.budget_db)
    check_outputs([output, manifest], model_files(teacher_path))
    teacher = load_onnx(teacher_path)
    if read_gate(teacher) is not None:
        raise UserError(
            f"{teacher_path} has a key gate, which would not drive what is inserted now; harden the model without it, "
            "then gate that"
        )
    if is_large(teacher):
        check_outputs([data_path(output)], model_files(teacher_path))
    card = _card(teacher, task, str(teacher_path), overrides, data)
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, options.seed) if data and card else []

    original, where = teacher, str(teacher_path)
    if needs_upgrade(original):
        teacher = upgrade_checked(original, card or guess_card(original, None, where, overrides), where)
    planned = make_plan(teacher, card, pairs, options)
    plan = planned.plan
    if card and pairs:
        refuse_overflow(teacher, card, plan.sites, pairs)
    hardened = onnx.ModelProto()
    hardened.CopyFrom(plan.apply(teacher))
    if card:
        write_card(hardened, card)
    measured = _Measured()
    if card and pairs:
        measured = _measure(original, teacher, hardened, card, planned, options)
    record = _record(teacher_path, output, hardened, measured, planned, card, options)
    if card and pairs:
        slowdown = estimate_slowdown(hardened, card, pairs[0])
        record = record.model_copy(update={"estimated_slowdown": slowdown})
    if teacher is not original:
        record = record.model_copy(update={"converted_from_opset": default_opset(original)})
    to_json(record.model_dump())  # what cannot be written must fail before the model is
    save_onnx(hardened, output)
    record = record.model_copy(update={"hardened_sha256": sha256_of_model(output)})
    write_text(manifest, to_json(record.model_dump()))
    return record


@dataclass(frozen=True)
class _Measured:
    """What was measured on images; nothing without them."""

    fidelity: FidelityReport | None = None
    distortions: Mapping[str, float] = field(default_factory=dict)
    strip: StripReport | None = None
    tiling: TilingReport | None = None


def _measure(
    original: onnx.ModelProto,
    teacher: onnx.ModelProto,
    hardened: onnx.ModelProto,
    card: ModelCard,
    planned: Planned,
    options: HardenOptions,
) -> _Measured:
    """Gates first; where they hold, everything the manifest states."""
    fidelity = _fidelity(original, hardened, card, planned.check, options.budget_db)
    if not fidelity.within_budget:
        raise GateFailedError(
            f"the hardened model fails the fidelity gate: {'; '.join(fidelity.failures())}; nothing was written. "
            f"{_advice(options)}"
        )
    tiling = measure_tiling(original, hardened, card, planned.check)
    in_path = {site.layer: site.attributes for site in planned.plan.sites if site.placement == "in-path"}
    if options.tile_safe and in_path and tiling is None:
        raise UserError(
            "--tile-safe cannot be judged: no calibration image is large enough for four tiles; give larger images, or "
            "use --placement paired"
        )
    if options.tile_safe and tiling and tiling.seams:
        raise GateFailedError(
            f"the hardened model shows seams in tiles: tile-wise and whole-image output agree to "
            f"{tiling.hardened_db:.1f} dB, the clean teacher's to {tiling.clean_db:.1f} dB; nothing was written. "
            "Lower --gain, use --placement paired, or leave out --tile-safe"
        )
    # The given file is the baseline: layers that it had hardened already cannot be measured against it.
    before = {entry.layer for entry in hardened_layers(teacher)}
    fresh = [entry.layer for entry in hardened_layers(hardened) if entry.layer not in before]
    distortions = feature_distortion(teacher, hardened, card, fresh, planned.check)
    # Stripping nodes whose readers were not refitted leaves the clean model: there is nothing to repair.
    compensated = in_path if planned.plan.refits else {}
    unlabeled = [pair.degraded for pair in planned.spare[:REFIT_IMAGES]]
    strip = measure_strip(hardened, card, compensated, planned.check, unlabeled)
    return _Measured(fidelity, distortions, strip, tiling)


def _card(
    teacher: onnx.ModelProto, task: str | None, where: str, overrides: CardOverrides | None, data: Path | None
) -> ModelCard | None:
    """The card to write, or None where nobody asked for one or it cannot be found out on this machine."""
    if not (task or data or overrides):
        return read_card(teacher)
    try:
        return resolve_card(teacher, task, where, overrides, data)
    except MissingDependencyError as error:
        if data:
            raise
        say(f"no model card: {error}", "yellow")
        return None


def _advice(options: HardenOptions) -> str:
    if options.placement in ("paired", "auto"):
        return "Paired nodes restore up to rounding: lower --gain, or leave out layers whose values are extreme"
    return "Lower --gain, choose other --layers, or use --placement paired"


def _fidelity(
    teacher: onnx.ModelProto,
    hardened: onnx.ModelProto,
    card: ModelCard,
    pairs: Sequence[ImagePair],
    budget_db: float,
) -> FidelityReport:
    clean, hard = RestorationSession(teacher, card), RestorationSession(hardened, card)
    with progress_bar("fidelity on calibration images", len(pairs)) as advance:
        report, _ = measure_fidelity(clean, hard, list(pairs), get_task(card.task).name, budget_db, advance)
    return report


def _record(
    teacher_path: Path,
    output: Path,
    hardened: onnx.ModelProto,
    measured: _Measured,
    planned: Planned,
    card: ModelCard | None,
    options: HardenOptions,
) -> Manifest:
    plan, analysis = planned.plan, planned.analysis
    refitted = {
        site.layer: [reader.output for reader in conv_readers(hardened, site.layer) or ()]
        for site in plan.sites
        if site.placement == "in-path" and plan.refits
    }
    inserted = hardened_layers(hardened)
    fresh = {site.layer for site in plan.sites}
    # Whether a node that was there before is compensated, only the manifest of the given file knows.
    before = [entry for entry in inserted if entry.layer not in fresh]
    told = {entry.layer: entry for entry in tell_placements(before, find_manifest(teacher_path))} if before else {}
    return Manifest(
        teacher=teacher_path.name,
        teacher_sha256=sha256_of_model(teacher_path),
        hardened=output.name,
        hardened_sha256="",  # known once it is written
        task=card.task if card else None,
        layers=describe_layers(
            [told.get(entry.layer, entry) for entry in inserted], measured.distortions, plan.reasons, refitted
        ),
        rules=plan.rules.splitlines(),
        coverage=Coverage(perturbed=plan.coverage[0], taps=plan.coverage[1]) if plan.coverage else None,
        skipped=dict(analysis.skipped) if analysis else {},
        notes=list(plan.notes),
        budget_db=options.budget_db,
        measured_loss_db=measured.fidelity.delta_psnr_db if measured.fidelity else None,
        fidelity=measured.fidelity,
        strip=measured.strip,
        tiling=measured.tiling,
        seed=options.seed,
    )
