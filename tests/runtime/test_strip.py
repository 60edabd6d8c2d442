"""What deleting the nodes gives an attacker, on a model whose compensated layer is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.conventions import Modulation
from kdguard.graph_passes.op.keys import draw_key
from kdguard.graph_passes.refit_consumers import RefitConsumers, conv_readers
from kdguard.runtime.compensation.candidate import gather
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.strip import measure_strip, refit_stripped
from tests.conftest import run_onnx
from tests.runtime.image_pairs import noisy_pairs

ATTRIBUTES = SvdPerturbAttributes(rank=2, gain=3.0)


def compensated(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    (candidate,) = gather(model, card, {"d": [ATTRIBUTES]}, noisy_pairs(4), 4000, "")
    weights = {output: (refit.weight, refit.bias) for output, refit in candidate.refits(2.0).items()}
    site = Site("d", ATTRIBUTES, "in-path")
    return InsertSvdPerturb(sites=[site])(RefitConsumers(weights)(model).model).model


def test_a_compensated_node_costs_a_stripper_and_refitting_wins_it_back(
    conv_net: onnx.ModelProto, card: ModelCard
) -> None:
    session = RestorationSession(conv_net, card)
    # The teacher's own answers are the truth: nobody trained it, and other errors would hide what is measured.
    pairs = [ImagePair(p.name, p.degraded, np.clip(session.restore(p.degraded), 0, 1)) for p in noisy_pairs(6)]
    hardened = compensated(conv_net, card)
    report = measure_strip(hardened, card, {"d": ATTRIBUTES}, pairs[:3], [pair.degraded for pair in pairs[3:]])
    assert report.stripped_loss_db > 3
    assert report.refitted_loss_db is not None
    assert abs(report.refitted_loss_db) < 0.2 * report.stripped_loss_db
    assert report.n == 3
    assert report.refit_images == 3
    assert report.hardened_psnr - report.stripped_psnr == pytest.approx(report.stripped_loss_db)


def test_paired_nodes_cost_a_stripper_nothing(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    hardened = InsertSvdPerturb(["b", "d"], SvdPerturbAttributes(gain=10.0))(conv_net).model
    report = measure_strip(hardened, card, {}, noisy_pairs(2), [])
    assert abs(report.stripped_loss_db) < 1e-3
    assert report.refitted_loss_db is None
    assert report.refit_images == 0


def test_the_refit_aims_at_what_a_modulated_node_put_out(conv_net: onnx.ModelProto, card: ModelCard) -> None:
    """The attacker's target is the output of the readers behind the node, whatever the node did."""
    key = draw_key(Modulation.PATTERN, 0)
    attributes = ATTRIBUTES.model_copy(update={"modulation": Modulation.PATTERN, "pattern": key})
    images = [pair.degraded for pair in noisy_pairs(3)]
    hardened = InsertSvdPerturb(sites=[Site("d", attributes, "in-path")])(conv_net).model
    modulated, plain = (refit_stripped(conv_net, card, {"d": a}, images) for a in (attributes, ATTRIBUTES))
    assert conv_readers(modulated, "d")
    image = images[0].transpose(2, 0, 1)[None].astype(np.float32)
    (wanted,) = run_onnx(hardened, image=image)
    errors = [float(np.linalg.norm(run_onnx(model, image=image)[0] - wanted)) for model in (modulated, plain)]
    assert errors[0] < errors[1]
