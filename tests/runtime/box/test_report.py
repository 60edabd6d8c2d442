"""Students of all kinds of users side by side, and equality without a key."""

from __future__ import annotations

import numpy as np
import pytest

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.box.report import BoxReport, Equality, box_finding, measure_equality, students_of_users
from kdguard.runtime.box.seal import SealReport
from kdguard.runtime.red_team.scoreboard import Group, Row, Scoreboard, SummaryEntry
from kdguard.runtime.write_gated import GateReport
from tests.conftest import make_conv_net, photograph
from tests.graph_passes.key_gate.gate_models import secret
from tests.runtime.report.made_up import scoreboard

CARD = ModelCard(task="deraining", input_name="image", output_name="restored")
GATE = GateReport(
    hardened="h.onnx",
    gated="g.onnx",
    gated_sha256="2" * 64,
    checked=True,
    added_bytes=1234,
    holders=["alice", "bob"],
    hints={"b": 4},
    driven=["b"],
)


def board() -> Scoreboard:
    """Two seeds: the key holder 31 and 33, plain 30 and 31, outputs of the hardened 29 and 31, features 20 and 24."""
    found = {
        ("authorised", "T3", "clean"): (31.0, 33.0),
        ("output-l1", "T0", "clean"): (30.0, 31.0),
        ("output-l1", "T0", "hardened"): (29.0, 31.0),
        ("fitnets", "T1", "clean"): (32.0, 32.0),
        ("fitnets", "T1", "hardened"): (20.0, 24.0),
    }
    rows = [
        Row(recipe=recipe, source=source, seed=seed, psnr=psnr, ssim=0.9)
        for (recipe, _, source), scores in found.items()
        for seed, psnr in enumerate(scores)
    ]

    def group(recipe: str, tier: str, source: str) -> Group:
        scores = found.get((recipe, tier, source), found[recipe, tier, "clean"])
        return Group(psnr=float(np.mean(scores)), ssim=0.9, ci95=1.0)

    summary = [
        SummaryEntry(
            recipe=recipe,
            tier=tier,
            clean=group(recipe, tier, "clean"),
            hardened=group(recipe, tier, "hardened"),
            drop_db=0.0,
            drop_ci95=0.0,
            ssim_drop_pct=0.0,
        )
        for recipe, tier in (("output-l1", "T0"), ("fitnets", "T1"), ("authorised", "T3"))
    ]
    return scoreboard(*summary).model_copy(update={"rows": rows})


def test_side_by_side() -> None:
    students = students_of_users(board())
    assert [(s.user, s.recipe, s.psnr, s.less_authorised_db) for s in students] == [
        ("authorised", "authorised", 32.0, None),
        ("plain", "output-l1", 30.5, -1.5),
        ("unauthorised", "output-l1", 30.0, -2.0),
        ("unauthorised", "fitnets", 22.0, -10.0),
    ]
    # Differences of -1 and -2 dB: 12.706 (Student's t, one degree of freedom) times 0.5.
    assert students[1].less_authorised_ci95 == pytest.approx(6.353, abs=1e-3)
    finding = box_finding(BoxReport(sealed=None, gate=None, students=students))
    assert "a key holder's student ends 1.50 ± 6.35 dB above (not told apart from) plain distillation" in finding


@pytest.mark.parametrize(
    ("less", "ci95", "said"),
    [
        (-0.6, 0.2, "ends 0.60 ± 0.20 dB above plain distillation"),
        (0.6, 0.2, "ends 0.60 ± 0.20 dB below plain distillation"),
        (0.6, None, "ends 0.60 dB below plain distillation"),
        (0.1, 0.2, "ends 0.10 ± 0.20 dB below (not told apart from) plain distillation"),
    ],
)
def test_a_key_holder_may_end_below(less: float, ci95: float | None, said: str) -> None:
    himself, plain, *_ = students_of_users(board())
    plain = plain.model_copy(update={"less_authorised_db": less, "less_authorised_ci95": ci95})
    assert said in box_finding(BoxReport(sealed=None, gate=None, students=[himself, plain]))


def test_without_the_recipe_there_is_nothing_to_show() -> None:
    made = board()
    assert students_of_users(made.model_copy(update={"summary": made.summary[:2]})) == []


def test_equality_is_measured() -> None:
    model = InsertSvdPerturb(["b"], SvdPerturbAttributes(rank=2, gain=10.0))(make_conv_net()).model
    image = photograph(32).astype(np.float32) / 255
    pairs = [ImagePair("a", image, image), ImagePair("b", image[::-1].copy(), image)]
    gated = gate_model(model, [secret(0)], ["b"])
    found = measure_equality(model, gated, GATE, CARD, pairs)
    assert (found.images, found.equal) == (2, 2)
    assert (found.added_bytes, found.holders, found.hints) == (1234, 2, ["b"])
    assert abs(found.keyed_loss_db) < 1e-3
    other = gate_model(
        InsertSvdPerturb(["b"], SvdPerturbAttributes(rank=1, gain=2.0), placement="in-path")(make_conv_net()).model,
        [secret(0)],
    )
    assert measure_equality(model, other, GATE, CARD, pairs).equal == 0


def test_the_gate_is_spoken_of_where_there_is_one() -> None:
    sealed = SealReport(
        box="hardened.box",
        hardened="hardened.onnx",
        hardened_sha256="0" * 64,
        teacher_sha256="1" * 64,
        holders=2,
        signed_by=None,
        teacher_bytes=2,
        sealed_bytes=1,
    )
    gate = Equality(
        images=2,
        equal=2,
        gated="g.onnx",
        gated_sha256="2" * 64,
        added_bytes=1234,
        holders=1,
        hints=[],
        keyed_loss_db=0.0,
    )
    alone = box_finding(BoxReport(sealed=sealed, gate=None, students=[]))
    assert alone == "Box (T3): the clean teacher is sealed to 2 holders."
    for box in (sealed, None):
        assert box_finding(BoxReport(sealed=box, gate=gate, students=[])).endswith(
            "Whoever edits the graph can take the gate out."
        )
