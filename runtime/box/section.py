"""The `box:` section of a pipeline file: who gets keys, and what a run then makes of the hardened model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from pydantic import Field, model_validator

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.key_gate import KeyDigest
from kdguard.runtime.box.choose_views import find_ensemble
from kdguard.runtime.box.contents import Augmentation
from kdguard.runtime.box.gate_keys import collect_digests, parse_hints
from kdguard.runtime.box.key_files import warn_of_readable
from kdguard.runtime.box.keys import collect_holders
from kdguard.runtime.box.report import BoxReport, measure_equality, students_of_users
from kdguard.runtime.box.seal import SealReport, seal
from kdguard.runtime.box.signing import read_signing_key
from kdguard.runtime.red_team.scoreboard import Scoreboard
from kdguard.runtime.terminal import announce
from kdguard.runtime.write_gated import GateReport, write_gated
from kdguard.runtime.yaml_section import YamlSection

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

GATED_NAME = "gated.onnx"
BOX_NAMES = ("hardened.box", "gated.box")
"""Without and with a gate: a box goes by the name of the file that it is sealed for."""


class BoxSection(YamlSection):
    """See docs/box.md and docs/key-gate.md; paths are relative to the pipeline file."""

    holders: Path | None = Field(None, description="file with public keys to seal the clean teacher to")
    sign_with: Path | None = Field(None, description="the releaser's secret key, of `kdguard keygen --signing`")
    gate: list[Path] = Field(default_factory=list, description="public halves of `kdguard keygen --gate`, one a holder")
    hints: list[str] = Field(default_factory=list, description="layers that a key opens hints of: GLOB or GLOB:RANK")
    ensemble: bool = Field(False, description="let a gate's key open a self-ensemble, over harmless flips")

    @model_validator(mode="after")
    def _for_somebody(self) -> BoxSection:
        if self.holders is None and not self.gate:
            raise ValueError("name holders of keys: holders for a sealed box, gate for a gate in the graph")
        if self.sign_with is not None and self.holders is None:
            raise ValueError("sign_with signs a sealed box, and there is none without holders")
        if (self.hints or self.ensemble) and not self.gate:
            raise ValueError("hints and ensemble are behind a gate, and there is none without gate")
        return self

    def files(self) -> list[Path]:
        """What is read."""
        return [path for path in (self.holders, self.sign_with, *self.gate) if path is not None]


@dataclass(frozen=True)
class BoxKeys:
    """What the files of a section hold, read once: a file that changes during a long run changes nothing.

    Attributes:
        holders: public keys; empty where no sealed box is asked for.
        signing_key: the releaser's.
        digests: of gate keys; empty where no gate is asked for.
        hints: layers and ranks.
        ensemble: whether a gate's key opens one.
    """

    holders: list[str]
    signing_key: Ed25519PrivateKey | None
    digests: list[KeyDigest]
    hints: dict[str, int]
    ensemble: bool


def read_keys(section: BoxSection, base: Path) -> BoxKeys:
    """Read all keys, before work starts; said is where others may read a secret one.

    Raises:
        UserError: one cannot be read, or is something else.
    """
    sign_with = base / section.sign_with if section.sign_with else None
    warn_of_readable(sign_with)
    return BoxKeys(
        holders=collect_holders((), [base / section.holders]) if section.holders else [],
        signing_key=read_signing_key(sign_with) if sign_with else None,
        digests=collect_digests([base / path for path in section.gate]) if section.gate else [],
        hints=parse_hints(section.hints),
        ensemble=section.ensemble,
    )


def write_gate(
    keys: BoxKeys, out: Path, hardened: onnx.ModelProto, calibration: Path
) -> tuple[onnx.ModelProto, GateReport] | None:
    """`gated.onnx` from the model in `hardened.onnx`, with a manifest; None where no gate is asked for.

    Args:
        calibration: folder of the images on which the views of an ensemble are chosen.
    """
    if not keys.digests:
        return None
    path = out / "hardened.onnx"
    ensemble = find_ensemble(hardened, path, calibration, keys.hints) if keys.ensemble else None
    return write_gated(hardened, path, out / GATED_NAME, keys.digests, keys.hints, ensemble)


def make_box(
    keys: BoxKeys,
    out: Path,
    hardened: onnx.ModelProto,
    gated: tuple[onnx.ModelProto, GateReport] | None,
    card: ModelCard,
    pairs: list[ImagePair],
    board: Scoreboard,
) -> BoxReport:
    """The sealed box, what the gate does, and what students of each kind of user reached.

    Args:
        out: the run folder.
        gated: of `write_gate`.
        pairs: test images.
    """
    announce("box")
    return BoxReport(
        sealed=write_box(keys, out, board.tap),
        gate=measure_equality(hardened, *gated, card, pairs) if gated else None,
        students=students_of_users(board),
    )


def write_box(keys: BoxKeys, out: Path, tap: str | None) -> SealReport | None:
    """A box beside the file that ships, and bound to it: the gated one where there is a gate."""
    if not keys.holders:
        return None
    return seal(
        out / (GATED_NAME if keys.digests else "hardened.onnx"),
        out / "teacher.onnx",
        out / BOX_NAMES[bool(keys.digests)],
        keys.holders,
        augmentation=Augmentation(hint_taps=[tap] if tap else []),
        signing_key=keys.signing_key,
    )
