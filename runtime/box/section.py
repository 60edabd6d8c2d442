"""The `box:` section of a pipeline file: who gets keys, and what a run then makes of the hardened model."""

from __future__ import annotations

from pathlib import Path

import onnx
from pydantic import Field, model_validator

from kdguard.runtime.box.contents import Augmentation
from kdguard.runtime.box.gate_keys import collect_digests, parse_hints
from kdguard.runtime.box.keys import collect_holders
from kdguard.runtime.box.seal import SealReport, seal
from kdguard.runtime.box.signing import read_signing_key
from kdguard.runtime.write_gated import write_gated
from kdguard.runtime.yaml_section import YamlSection

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


def check_keys(section: BoxSection, base: Path) -> None:
    """See that all keys can be read, before work starts.

    Raises:
        UserError: one cannot, or is something else.
    """
    if section.holders:
        collect_holders((), [base / section.holders])
    if section.sign_with:
        read_signing_key(base / section.sign_with)
    if section.gate:
        collect_digests([base / path for path in section.gate])
        parse_hints(section.hints)


def write_gate(section: BoxSection, base: Path, out: Path, hardened: onnx.ModelProto) -> onnx.ModelProto | None:
    """`gated.onnx` from the model in `hardened.onnx`, with a manifest; None where no gate is asked for."""
    if not section.gate:
        return None
    digests = collect_digests([base / file for file in section.gate])
    gated, _ = write_gated(hardened, out / "hardened.onnx", out / GATED_NAME, digests, parse_hints(section.hints))
    return gated


def write_box(section: BoxSection, base: Path, out: Path, tap: str | None) -> SealReport | None:
    """`hardened.box`, bound to the file that ships: the gated one where there is a gate."""
    if section.holders is None:
        return None
    return seal(
        out / (GATED_NAME if section.gate else "hardened.onnx"),
        out / "teacher.onnx",
        out / BOX_NAME,
        collect_holders((), [base / section.holders]),
        augmentation=Augmentation(hint_taps=[tap] if tap else []),
        signing_key=read_signing_key(base / section.sign_with) if section.sign_with else None,
    )
