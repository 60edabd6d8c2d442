"""`kdguard harden`: the insertion pass, then the fidelity gates on the user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.files import check_writable, sha256_of_file, write_json
from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard, read_card, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Placement
from kdguard.graph_passes.inventory import HardenedLayer, hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.fidelity import FidelityReport, measure_fidelity
from kdguard.runtime.manifest import Manifest, ManifestLayer
from kdguard.runtime.session import RestorationSession, resolve_card
from kdguard.runtime.terminal import progress_bar

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
    return hardened.with_suffix(".manifest.json")


def harden(
    teacher_path: Path,
    output: Path,
    options: HardenOptions,
    *,
    task: str | None = None,
    data: Path | None = None,
    manifest: Path | None = None,
) -> Manifest:
    """Harden a model file; nothing is written where a gate fails.

    Args:
        data: image pairs to measure fidelity and distortion on; without them the manifest says
            that neither was measured.
        manifest: where to write the manifest, beside `output` by default.

    Raises:
        UserError: bad model, data, layers or output.
        GateFailedError: the hardened model is outside the budget on `data`.
    """
    manifest = manifest or manifest_path(output)
    check_writable(output)
    check_writable(manifest)
    if output.resolve() == teacher_path.resolve():
        raise UserError(f"{output} is the teacher itself; write the hardened model to another file")
    teacher = load_onnx(teacher_path)
    card = resolve_card(teacher, task, str(teacher_path)) if task or data else read_card(teacher)
    pairs = load_pairs(data, get_task(card.task), card.channels, card.scale, options.seed) if data and card else []

    result = InsertSvdPerturb(
        options.globs, options.attributes, op_types=options.op_types, placement=options.placement
    )(teacher)
    inserted = hardened_layers(result.model)
    hardened = onnx.ModelProto()
    hardened.CopyFrom(result.model)
    if card:
        write_card(hardened, card)
    fidelity, distortions = None, {}
    if card and pairs:
        fidelity = _fidelity(teacher, hardened, card, pairs, options.budget_db)
        if not fidelity.within_budget:
            raise GateFailedError(
                f"the hardened model fails the fidelity gate: {'; '.join(fidelity.failures())}; nothing was written. "
                "Lower --gain, choose other --layers, or use --placement paired"
            )
        distortions = feature_distortion(teacher, hardened, card, [entry.layer for entry in inserted], pairs)
    save_onnx(hardened, output)
    record = _record(teacher_path, output, inserted, distortions, fidelity, card, options)
    write_json(manifest, record.model_dump())
    return record


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
    for pair in pairs[:DISTORTION_IMAGES]:
        clean, perturbed = (session.run(image_to_tensor(pair.degraded, card))[1:] for session in sessions)
        ratios.append(
            [
                float(np.linalg.norm(p - c)) / max(float(np.linalg.norm(c)), 1e-12)
                for c, p in zip(clean, perturbed, strict=True)
            ]
        )
    return dict(zip(layers, np.mean(ratios, axis=0).tolist(), strict=True))


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
        teacher_sha256=sha256_of_file(teacher_path),
        hardened=output.name,
        hardened_sha256=sha256_of_file(output),
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
