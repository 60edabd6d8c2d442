"""The `box:` section of a pipeline file: who gets keys, and what a run then makes of the hardened model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from pydantic import Field, model_validator

from kdguard.graph_passes.key_gate import KeyDigest
from kdguard.runtime.box.contents import Augmentation
from kdguard.runtime.box.gate_keys import collect_digests, parse_hints
from kdguard.runtime.box.key_files import warn_of_readable
from kdguard.runtime.box.keys import collect_holders
from kdguard.runtime.box.seal import SealReport, seal
from kdguard.runtime.box.signing import read_signing_key
from kdguard.runtime.write_gated import GateReport, write_gated
from kdguard.runtime.yaml_section import YamlSection

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

BOX_NAME, GATED_NAME = "hardened.box", "gated.onnx"


class BoxSection(YamlSection):
    """See docs/box.md and docs/key-gate.md; paths are relative to the pipeline file."""

    holders: Path | None = Field(None, description="file with public keys to seal the clean teacher to")
    sign_with: Path | None = Field(None, description="the releaser's secret key, of `kdguard keygen --signing`")
    gate: list[Path] = Field(default_factory=list, description="public halves of `kdguard keygen --gate`, one a holder")
    hints: list[str] = Field(default_factory=list, description="layers that a key opens hints of: GLOB or GLOB:RANK")

    @model_validator(mode="after")
    def _for_somebody(self) -> BoxSection:
        if self.holders is None and not self.gate:
            raise ValueError("name holders of keys: holders for a sealed box, gate for a gate in the graph")
        if self.sign_with is not None and self.holders is None:
            raise ValueError("sign_with signs a sealed box, and there is none without holders")
        if self.hints and not self.gate:
            raise ValueError("hints are behind a gate, and there is none without gate")
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
    """

    holders: list[str]
    signing_key: Ed25519PrivateKey | None
    digests: list[KeyDigest]
    hints: dict[str, int]


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
    )


def write_gate(keys: BoxKeys, out: Path, hardened: onnx.ModelProto) -> tuple[onnx.ModelProto, GateReport] | None:
    """`gated.onnx` from the model in `hardened.onnx`, with a manifest; None where no gate is asked for."""
    if not keys.digests:
        return None
    return write_gated(hardened, out / "hardened.onnx", out / GATED_NAME, keys.digests, keys.hints)


def write_box(keys: BoxKeys, out: Path, tap: str | None) -> SealReport | None:
    """`hardened.box`, bound to the file that ships: the gated one where there is a gate."""
    if not keys.holders:
        return None
    return seal(
        out / (GATED_NAME if keys.digests else "hardened.onnx"),
        out / "teacher.onnx",
        out / BOX_NAME,
        keys.holders,
        augmentation=Augmentation(hint_taps=[tap] if tap else []),
        signing_key=keys.signing_key,
    )
