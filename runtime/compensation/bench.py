"""A model in which one layer's gain and its readers' weights are inputs: trying many without rebuilding it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image, get_task
from kdguard.graph_passes.insert_svd_perturb import STRENGTH, InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.refit_consumers import ConvReader, RefitConsumers
from kdguard.runtime.compensation.statistics import Refit
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.session import RestorationSession

AMPLIFY, ATTENUATE = 9.0, 1e-3
"""Gains at full strength; strength drives what lies between them and 1."""


@dataclass(frozen=True)
class Outcome:
    """What one gain does on the trial images.

    Attributes:
        excess: gain less one.
        margin_db: mean of hardened-against-clean PSNR minus the teacher's own.
        worst_margin_db: the same on the worst image.
        between_db: mean of hardened-against-clean PSNR itself.
        loss_db: PSNR against ground truth lost by the hardened model, mean.
        ssim_loss: likewise.
        strip_db: PSNR lost by whoever deletes the perturbation and keeps the new weights.
    """

    excess: float
    margin_db: float
    worst_margin_db: float
    between_db: float
    loss_db: float
    ssim_loss: float
    strip_db: float


@dataclass(frozen=True)
class Baseline:
    """What the clean teacher makes of a trial image, scored once."""

    output: Image
    psnr: float
    ssim: float

    @staticmethod
    def of(output: Image, pair: ImagePair, card: ModelCard) -> Baseline:
        """Score an output."""
        task = get_task(card.task)
        return Baseline(output, psnr(output, pair.clean, task, card.scale), ssim(output, pair.clean, task, card.scale))


class TrialBench:
    """Runs a candidate at any gain on a few images, hardened and stripped."""

    def __init__(
        self,
        model: onnx.ModelProto,
        card: ModelCard,
        layer: str,
        attributes: SvdPerturbAttributes,
        readers: Sequence[ConvReader],
        *,
        amplify: bool,
    ) -> None:
        gain = AMPLIFY if amplify else ATTENUATE
        self._full = gain - 1
        site = Site(layer, attributes.model_copy(update={"gain": gain}), "in-path")
        weights = {reader.output: (reader.weight, reader.bias) for reader in readers}
        # The passes' own checks cost seconds on large graphs; this model is never written.
        result = InsertSvdPerturb(sites=[site]).call(RefitConsumers(weights).call(model).model).model
        node = {node.output[0]: node for node in result.graph.node}
        self._names = {reader.output: tuple(node[reader.output].input[1:3]) for reader in readers}
        wanted = {STRENGTH, *(name for names in self._names.values() for name in names)}
        free = [tensor for tensor in result.graph.initializer if tensor.name in wanted]
        kept = [tensor for tensor in result.graph.initializer if tensor.name not in wanted]
        self._kinds = {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in free}
        del result.graph.initializer[:]
        result.graph.initializer.extend(kept)
        for tensor in free:
            kind = TensorProto.FLOAT if tensor.name == STRENGTH else tensor.data_type
            result.graph.input.append(helper.make_tensor_value_info(tensor.name, kind, list(tensor.dims)))
        self._session = RestorationSession(result, card)
        self._card = card

    def restore(self, image: Image, excess: float, refits: Mapping[str, Refit]) -> Image:
        """One image at one gain; excess 0 is the stripped model."""
        feeds = {STRENGTH: np.array(excess / self._full, np.float32)}
        for output, refit in refits.items():
            for name, values in zip(self._names[output], (refit.weight, refit.bias), strict=True):
                feeds[name] = values.astype(self._kinds[name])
        return self._session.restore(image, feeds)

    def try_gain(
        self, excess: float, refits: Mapping[str, Refit], pairs: Sequence[ImagePair], clean: Sequence[Baseline]
    ) -> Outcome:
        """Measure one gain on the pairs, against what the clean teacher makes of them."""
        task, scale = get_task(self._card.task), self._card.scale
        margins, betweens, losses, ssim_losses, strips = [], [], [], [], []
        for pair, before in zip(pairs, clean, strict=True):
            hardened, stripped = (np.nan_to_num(self.restore(pair.degraded, at, refits)) for at in (excess, 0.0))
            after = psnr(hardened, pair.clean, task, scale)
            betweens.append(psnr(hardened, before.output, task, scale, clip=False))
            margins.append(betweens[-1] - before.psnr)
            losses.append(before.psnr - after)
            ssim_losses.append(before.ssim - ssim(hardened, pair.clean, task, scale))
            strips.append(after - psnr(stripped, pair.clean, task, scale))
        return Outcome(
            excess,
            float(np.mean(margins)),
            float(np.min(margins)),
            float(np.mean(betweens)),
            float(np.mean(losses)),
            float(np.mean(ssim_losses)),
            float(np.mean(strips)),
        )
