"""What a run says of its box: everybody's restoration is the same, and what students of each kind of user reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
from pydantic import BaseModel, Field

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import KEY_INPUT, ModelCard
from kdguard.graph_passes.key_gate import KEY_BITS
from kdguard.runtime.box.right_key import keyed_loss
from kdguard.runtime.box.seal import SealReport
from kdguard.runtime.red_team.interval import interval95
from kdguard.runtime.red_team.scoreboard import Scoreboard
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.side_by_side import side_by_side
from kdguard.runtime.terminal import progress_bar
from kdguard.runtime.wording import beside, counted
from kdguard.runtime.write_gated import GateReport

PLAIN = "output-l1"
WRONG_KEY_SEED = 0


class Equality(BaseModel):
    """The gated model without a key and with a wrong one, against the hardened model without the gate."""

    images: int
    equal: int = Field(description="whose pixels are the same bits, without a key and with a wrong one")
    gated: str = Field(description="file name")
    gated_sha256: str
    added_bytes: int = Field(description="what the gate adds to the file")
    holders: int
    hints: list[str] = Field(description="layers")
    views: list[int] = Field(default_factory=list, description="flips in the self-ensemble that a key opens, by number")
    keyed_loss_db: float = Field(description="what a right key costs against ground truth, mean PSNR of the images")


class UserStudent(BaseModel):
    """What a kind of user's students reach, mean over the seeds."""

    user: Literal["authorised", "plain", "unauthorised"]
    recipe: str
    tier: str
    psnr: float
    ci95: float | None
    less_authorised_db: float | None = Field(description="against the key holder, paired by seed; none for himself")
    less_authorised_ci95: float | None = None


class BoxReport(BaseModel):
    """One run's box."""

    sealed: SealReport | None = Field(description="none where no sealed box was asked for")
    gate: Equality | None = Field(description="none where no gate was asked for")
    students: list[UserStudent] = Field(description="empty where the attack did not train the recipe `authorised`")


def measure_equality(
    hardened: onnx.ModelProto, gated: onnx.ModelProto, gate: GateReport, card: ModelCard, pairs: Sequence[ImagePair]
) -> Equality:
    """Restore every image by both, without a key and with a wrong one; on the CPU equal work gives equal bits.

    Args:
        gate: what was put into `gated`.
    """
    wrong = np.random.default_rng(WRONG_KEY_SEED).integers(0, 2, KEY_BITS).astype(np.float32)
    sessions = [RestorationSession(model, card, provider="cpu") for model in (hardened, gated)]

    def ask(session: RestorationSession, pair: ImagePair) -> list[np.ndarray]:
        keys = [{}, {KEY_INPUT: wrong}] if session is sessions[1] else [{}]
        return [session.restore(pair.degraded, key) for key in keys]

    equal = 0
    with progress_bar("comparing with and without the gate", len(pairs)) as advance:
        for (plain,), answers in side_by_side(sessions, pairs, ask):
            equal += all(np.array_equal(plain, answer) for answer in answers)
            advance()
    return Equality(
        images=len(pairs),
        equal=equal,
        gated=gate.gated,
        gated_sha256=gate.gated_sha256,
        added_bytes=gate.added_bytes,
        holders=len(gate.holders),
        hints=list(gate.hints),
        views=gate.views,
        keyed_loss_db=keyed_loss(hardened, card, pairs),
    )


def students_of_users(board: Scoreboard) -> list[UserStudent]:
    """Key holders, plain distillation from the clean teacher, and thieves of the hardened one, side by side."""
    holders = [entry for entry in board.summary if entry.tier == "T3"]
    if not holders:
        return []
    reference = _by_seed(board, holders[0].recipe, "clean")
    found = []
    for entry in board.summary:
        if entry.tier == "T3":
            kinds = [("authorised", "clean", entry.clean)]
        elif entry.recipe == PLAIN:
            kinds = [("plain", "clean", entry.clean), ("unauthorised", "hardened", entry.hardened)]
        elif entry.tier == "T1":
            kinds = [("unauthorised", "hardened", entry.hardened)]
        else:
            continue
        for user, source, group in kinds:
            own = _by_seed(board, entry.recipe, source)
            apart = [own[seed] - reference[seed] for seed in sorted(own.keys() & reference.keys())]
            himself = entry is holders[0]
            found.append(
                UserStudent(
                    user=user,
                    recipe=entry.recipe,
                    tier=entry.tier,
                    psnr=group.psnr,
                    ci95=group.ci95,
                    less_authorised_db=None if himself or not apart else float(np.mean(apart)),
                    less_authorised_ci95=None if himself else interval95(apart),
                )
            )
    order = ("authorised", "plain", "unauthorised")
    return sorted(found, key=lambda student: order.index(student.user))


def box_finding(report: BoxReport) -> str:
    """One sentence for the verdict, with tier and figures."""
    parts = []
    if report.gate is not None:
        images = counted(report.gate.images, "test image")
        parts.append(
            f"without a key, or with a wrong one, {report.gate.equal} of {images} are the same bits as without the "
            f"gate; a right key costs {report.gate.keyed_loss_db:.3f} dB; {counted(report.gate.holders, 'key')} "
            f"{'opens' if report.gate.holders == 1 else 'open'} it"
        )
    if report.sealed is not None:
        parts.append(f"the clean teacher is sealed to {counted(report.sealed.holders, 'holder')}")
    by_user = {student.user: student for student in reversed(report.students)}
    if "authorised" in by_user and "plain" in by_user:
        plain = by_user["plain"]
        gain = beside(-(plain.less_authorised_db or 0.0), plain.less_authorised_ci95)
        parts.append(f"a key holder's student ends {gain} plain distillation")
    limit = " Whoever edits the graph can take the gate out." if report.gate else ""
    return f"Box (T3): {'; '.join(parts)}.{limit}"


def _by_seed(board: Scoreboard, recipe: str, source: str) -> dict[int, float]:
    return {row.seed: row.psnr for row in board.rows if (row.recipe, row.source) == (recipe, source)}
