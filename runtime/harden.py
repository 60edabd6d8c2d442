"""`kdguard harden`: the insertion pass, then the fidelity gates on the user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from kdguard.export.errors import GateFailedError, MissingDependencyError
from kdguard.export.files import check_outputs, to_json, write_text
from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.image_tensor import Tensor, image_to_tensor
from kdguard.export.large_models import data_path, is_large
from kdguard.export.model_card import CardOverrides, ModelCard, read_card, write_card
from kdguard.export.onnx_files import default_opset, load_onnx, model_files, save_onnx, sha256_of_model
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Placement
from kdguard.graph_passes.inventory import HardenedLayer, hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.fidelity import FidelityReport, check_budget, measure_fidelity
from kdguard.runtime.manifest import Manifest, ManifestLayer
from kdguard.runtime.session import RestorationSession, guess_card, resolve_card
from kdguard.runtime.side_by_side import side_by_side
from kdguard.runtime.terminal import progress_bar, say
from kdguard.runtime.upgrade import needs_upgrade, upgrade_checked

DISTORTION_IMAGES = 4
"""Feature distortion is an average over at most this many images; it varies little between them."""


@dataclass(frozen=True)
class HardenOptions:
    """What to insert and where; see `InsertSvdPerturb`."""

    globs: Sequence[str] = ()
    op_types: Sequence[str] = ()
    placement: Placement = "paired"
    attributes: SvdPerturbAttributes = field(default_factory=lambda: SvdPerturbAttributes(gain=10.0))
    budget_db: float = 0.1
    seed: int = 0


def manifest_path(hardened: Path) -> Path:
    """Where the manifest of a hardened model lies."""
    stem = hardened.stem if hardened.suffix == ".onnx" else hardened.name
    return hardened.parent / f"{stem}.manifest.json"


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
    if is_large(teacher):
        check_outputs([data_path(output)], model_files(teacher_path))
    card = _card(teacher, task, str(teacher_path), overrides, data)
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, options.seed) if data and card else []

    original, where = teacher, str(teacher_path)
    if needs_upgrade(original):
        teacher = upgrade_checked(original, card or guess_card(original, None, where, overrides), where)
    result = InsertSvdPerturb(
        options.globs, options.attributes, op_types=options.op_types, placement=options.placement
    )(teacher)
    hardened = onnx.ModelProto()
    hardened.CopyFrom(result.model)
    if card:
        write_card(hardened, card)
    before = {entry.layer for entry in hardened_layers(teacher)}
    inserted = hardened_layers(result.model)
    fidelity, distortions = None, {}
    if card and pairs:
        fidelity = _fidelity(original, hardened, card, pairs, options.budget_db)
        if not fidelity.within_budget:
            raise GateFailedError(
                f"the hardened model fails the fidelity gate: {'; '.join(fidelity.failures())}; nothing was written. "
                f"{_advice(options)}"
            )
        # The given file is the baseline: layers that it had hardened already cannot be measured against it.
        fresh = [entry.layer for entry in inserted if entry.layer not in before]
        distortions = feature_distortion(teacher, hardened, card, fresh, pairs)
    record = _record(teacher_path, output, inserted, distortions, fidelity, card, options)
    if teacher is not original:
        record = record.model_copy(update={"converted_from_opset": default_opset(original)})
    to_json(record.model_dump())  # what cannot be written must fail before the model is
    save_onnx(hardened, output)
    record = record.model_copy(update={"hardened_sha256": sha256_of_model(output)})
    write_text(manifest, to_json(record.model_dump()))
    return record


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
    if options.placement == "paired":
        return "Paired nodes restore up to rounding: lower --gain, or leave out layers whose values are extreme"
    return "Lower --gain, choose other --layers, or use --placement paired"


def _fidelity(
    teacher: onnx.ModelProto,
    hardened: onnx.ModelProto,
    card: ModelCard,
    pairs: list[ImagePair],
    budget_db: float,
) -> FidelityReport:
    clean, hard = RestorationSession(teacher, card), RestorationSession(hardened, card)
    with progress_bar("fidelity on calibration images", len(pairs)) as advance:
        report, _ = measure_fidelity(clean, hard, pairs, get_task(card.task).name, budget_db, advance)
    return report


def feature_distortion(
    teacher: onnx.ModelProto,
    hardened: onnx.ModelProto,
    card: ModelCard,
    layers: Sequence[str],
    pairs: list[ImagePair],
) -> dict[str, float]:
    """Mean over images of |hardened - clean| / |clean| per layer, Frobenius norms."""
    if not layers:
        return {}
    sessions = [RestorationSession(model, card, taps=layers) for model in (teacher, hardened)]
    ratios = []
    chosen = pairs[:DISTORTION_IMAGES]
    with progress_bar("distortion of feature maps", len(chosen)) as advance:
        tensors = [image_to_tensor(pair.degraded, card) for pair in chosen]
        for clean, perturbed in side_by_side(sessions, tensors, lambda session, tensor: session.run(tensor)[1:]):
            ratios.append([_relative_change(c, p) for c, p in zip(clean, perturbed, strict=True)])
            advance()
    return dict(zip(layers, np.mean(ratios, axis=0).tolist(), strict=True))


def _relative_change(clean: Tensor, perturbed: Tensor) -> float:
    return float(np.linalg.norm(perturbed - clean)) / max(float(np.linalg.norm(clean)), 1e-12)


def _record(
    teacher_path: Path,
    output: Path,
    inserted: Sequence[HardenedLayer],
    distortions: dict[str, float],
    fidelity: FidelityReport | None,
    card: ModelCard | None,
    options: HardenOptions,
) -> Manifest:
    return Manifest(
        teacher=teacher_path.name,
        teacher_sha256=sha256_of_model(teacher_path),
        hardened=output.name,
        hardened_sha256="",  # known once it is written
        task=card.task if card else None,
        layers=[
            ManifestLayer(
                layer=entry.layer,
                op_type=entry.op_type,
                placement=entry.placement,
                rank=int(entry.attributes["rank"]),  # type: ignore[call-overload]
                gain=float(entry.attributes["gain"]),  # type: ignore[arg-type]
                centred=bool(entry.attributes["centred"]),
                nodes=list(entry.nodes),
                relative_distortion=distortions.get(entry.layer),
            )
            for entry in inserted
        ],
        budget_db=options.budget_db,
        measured_loss_db=fidelity.delta_psnr_db if fidelity else None,
        fidelity=fidelity,
        seed=options.seed,
    )
