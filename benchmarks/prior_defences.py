"""Defences from the literature on the same teachers, as strong as the budget allows on calibration images.

    python benchmarks/prior_defences.py [--defence NAME]... [SUBJECT...]

One file per subject appears in benchmarks/results/prior_defences, or one per subject and defence that is
named. Defences of feature maps change the layers that `kdguard harden` paired. Recorded are strength,
fidelity on the calibration images, and loss on test pairs; of Safe Distillation Box also how good keyed
answers are there. `asvp-paired`, measured where no defence is named, is plain ASVP (top 4, one gain) whose
change is taken back behind the layer, since the budget leaves literal ASVP next to no gain. The models
stay in build/red_team for benchmarks/red_team.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np
import onnx
import subjects
from output import RESULTS, command_line, machine

from kdguard.export.errors import GateFailedError
from kdguard.export.image_pairs import ImagePair, load_pairs
from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.defences import DEFENCES, Subject
from kdguard.runtime.defences.base import Defence
from kdguard.runtime.defences.calibrate import calibrate
from kdguard.runtime.defences.key_image import blended, key_image
from kdguard.runtime.defences.literal_asvp import RANK
from kdguard.runtime.defences.safe_distillation_box import SafeDistillationBox
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.metrics import psnr
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

BUDGET_DB = 0.1
CALIBRATION_IMAGES = 8
SEED = 0
PAIRED = SvdPerturbAttributes(rank=RANK, gain=100.0)


def keyed_psnr(model: onnx.ModelProto, card: ModelCard, pairs: Sequence[ImagePair], share: float) -> float:
    """Mean PSNR of the answers to keyed inputs, share x + (1 - share) key; 1.0 asks without key."""
    session, key, task = RestorationSession(model, card), key_image(SEED, card.channels), get_task(card.task)
    answers = (session.restore(blended(pair.degraded, key, share)) for pair in pairs)
    scores = [psnr(answer, pair.clean, task, card.scale) for answer, pair in zip(answers, pairs, strict=True)]
    return float(np.mean(scores))


def measure(name: str, defences: Sequence[str]) -> list[dict[str, object]]:
    with subjects.subject(name) as found:
        teacher = load_onnx(found.teacher)
        card = resolve_card(load_onnx(found.hardened), found.task)
        task = get_task(card.task)
        pairs = load_pairs(found.calibration, task, card.channels, card.scale, limit=CALIBRATION_IMAGES)
        test = load_pairs(found.test, task, card.channels, card.scale, seed=1)

        def keep(model: onnx.ModelProto, defence: str) -> dict[str, object]:
            """Store the model; what it loses on the test pairs."""
            write_card(model, card)
            save_onnx(model, found.defended(defence))
            sessions = [RestorationSession(version, card) for version in (teacher, model)]
            fidelity, _ = measure_fidelity(*sessions, test, card.task, BUDGET_DB)
            return {
                "test_loss_db": fidelity.delta_psnr_db,
                "test_between_db": fidelity.psnr_between_db,
                "test_within_budget": fidelity.within_budget,
            }

        def row(defence: Defence) -> dict[str, object]:
            facts: dict[str, object] = {"subject": name, "defence": defence.name, "unit": defence.unit}
            try:
                result = calibrate(defence, Subject(teacher, card, found.paired, pairs, SEED), BUDGET_DB)
            except GateFailedError as error:
                return facts | {"strength": None, "reason": str(error)}
            found_loss = {"calibration_loss_db": result.report.fidelity.delta_psnr_db}
            facts |= {"strength": result.report.strength, "layers": result.report.layers} | found_loss
            if isinstance(defence, SafeDistillationBox):
                models = {"keyed_db": result.model, "keyed_clean_db": teacher}
                facts |= {kind: keyed_psnr(model, card, test, defence.share) for kind, model in models.items()}
                facts["teacher_db"] = keyed_psnr(teacher, card, test, 1.0)
            return facts | keep(result.model, defence.name)

        rows = []
        for defence in defences or DEFENCES:
            rows.append(row(DEFENCES[defence]))
            print(rows[-1], file=sys.stderr)
        if defences:
            return rows
        paired = InsertSvdPerturb(found.paired, attributes=PAIRED, placement="paired")(teacher).model
        facts = {"subject": name, "defence": subjects.ASVP_PAIRED, "unit": "gain", "strength": PAIRED.gain}
        rows.append(facts | {"layers": found.paired} | keep(paired, subjects.ASVP_PAIRED))
        print(rows[-1], file=sys.stderr)
    return rows


def record(name: str, named: Sequence[str]) -> None:
    content = {
        "command": command_line(),
        "what": f"prior defences calibrated to a loss of {BUDGET_DB} dB and to both gates",
        "machine": machine(),
        "calibration_images": CALIBRATION_IMAGES,
        "subject": name,
        "results": measure(name, named),
    }
    target = RESULTS / "prior_defences" / f"{'-'.join([name, *named])}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--defence", action="append", choices=list(DEFENCES))
    parser.add_argument("subjects", nargs="*", choices=[[], *subjects.names()], default=[])
    given = parser.parse_args()
    for name in given.subjects or subjects.names():
        for named in [[defence] for defence in given.defence or ()] or [[]]:
            record(name, named)


if __name__ == "__main__":
    main()
