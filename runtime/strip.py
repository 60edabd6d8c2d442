"""What deleting every node of ours gives an attacker, as it stands and after he refits what read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from kdguard.export.image_pairs import ImagePair
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from kdguard.graph_passes.strip_nodes import StripNodes
from kdguard.runtime.compensation.statistics import RefitStatistics, top_part
from kdguard.runtime.metrics import psnr
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.side_by_side import side_by_side
from kdguard.runtime.terminal import progress_bar

REFIT_IMAGES = 4
REFIT_PATCHES = 20000


class StripReport(BaseModel):
    """PSNR against ground truth on the checked images, and what is lost of it, mean over the images.

    The attacker is tier T1s: he has the file and knows kdguard.
    """

    n: int = Field(description="images")
    hardened_psnr: float
    stripped_psnr: float = Field(description="every kdguard node deleted, weights as shipped")
    stripped_loss_db: float
    refitted_psnr: float | None = Field(
        None, description="after he also refitted the readers of in-path layers; None where there are none"
    )
    refitted_loss_db: float | None = None
    refit_images: int = Field(description="unlabeled images that the refit took; none of those scored here")


def _per_unit_of_gain(F: NDArray[np.float32], attributes: SvdPerturbAttributes) -> NDArray[np.float32]:
    """What the op adds to a map [C, H, W] for one unit of gain beyond 1, at the gain that the file states."""
    if not (attributes.modulation or attributes.adaptive or attributes.coherence):
        return top_part(F, attributes)
    change = reference.svd_perturb(F[None].astype(np.float64), attributes).change[0]
    return (change / (attributes.gain - 1)).astype(np.float32)


def refit_stripped(
    stripped: onnx.ModelProto,
    card: ModelCard,
    layers: Mapping[str, SvdPerturbAttributes],
    images: Sequence[np.ndarray],
) -> onnx.ModelProto:
    """The attacker's repair: ridge regression of each reader onto what it put out before the strip.

    He runs the hardened model to see those outputs, the stripped one to see the new inputs, and needs
    no ground truth. Layers are repaired in graph order, each on the model as repaired so far.

    Args:
        layers: in-path layers and the op they carried; his copy of the file states it.
        images: degraded images [H, W, C] in [0, 1].
    """
    for layer, attributes in layers.items():
        readers = conv_readers(stripped, layer)
        if not readers or attributes.gain == 1:
            continue
        statistics = {reader.geometry: RefitStatistics(reader) for reader in readers}
        session = RestorationSession(stripped, card, taps=[layer])
        for image in images:
            F = session.run(image_to_tensor(image, card))[1][0]
            top = _per_unit_of_gain(F, attributes)
            for entry in statistics.values():
                entry.add(F, top, REFIT_PATCHES)
        refits = {r.output: statistics[r.geometry].refit(r, seen=0.0, wanted=attributes.gain - 1) for r in readers}
        weights = {output: (refit.weight, refit.bias) for output, refit in refits.items()}
        stripped = RefitConsumers(weights)(stripped).model
    return stripped


def measure_strip(
    hardened: onnx.ModelProto,
    card: ModelCard,
    in_path: Mapping[str, SvdPerturbAttributes],
    pairs: Sequence[ImagePair],
    unlabeled: Sequence[np.ndarray],
) -> StripReport:
    """Attack the hardened model by deletion, then by deletion and refit.

    Args:
        in_path: layers without a restorer, with their attributes; empty where everything is paired.
        pairs: images to score on.
        unlabeled: degraded images for the refit, not among `pairs`.
    """
    stripped = StripNodes()(hardened).model
    models = [hardened, stripped]
    images = list(unlabeled)[:REFIT_IMAGES]
    if in_path and images:
        models.append(refit_stripped(stripped, card, in_path, images))
    sessions = [RestorationSession(model, card) for model in models]
    task = get_task(card.task)
    scores = []
    with progress_bar("attacking by deletion", len(pairs)) as advance:
        answers = side_by_side(sessions, list(pairs), lambda session, pair: session.restore(pair.degraded))
        for pair, outputs in zip(pairs, answers, strict=True):
            scores.append([psnr(np.nan_to_num(output), pair.clean, task, card.scale) for output in outputs])
            advance()
    means = np.mean(scores, axis=0).tolist()
    return StripReport(
        n=len(pairs),
        hardened_psnr=means[0],
        stripped_psnr=means[1],
        stripped_loss_db=means[0] - means[1],
        refitted_psnr=means[2] if len(means) > 2 else None,
        refitted_loss_db=means[0] - means[2] if len(means) > 2 else None,
        refit_images=len(images) if len(means) > 2 else 0,
    )
