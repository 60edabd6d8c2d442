"""What may be asked of a vendor's builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdguard.export.errors import UserError
from kdguard.runtime.engines import EngineKind
from kdguard.runtime.engines.prepare import Precision


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        precision: fp16 makes a float model so; inputs and outputs stay what they are.
        timing_cache: read where it is there, and replaced.
        version_compatible: the engine also loads into newer versions of the vendor's library.
        hardware_compatible: it also runs on other GPUs from Ampere on.
        gpus: compute capabilities to build for, of those that TensorRT-RTX knows.
        plugin: a kernel of ours finds the singular vectors of the layers that it can work on.
    """

    precision: Precision = "as-is"
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    gpus: Sequence[str] = ()
    plugin: bool = False

    def check(self, kind: EngineKind) -> None:
        """Refuse what this vendor's builder would ignore.

        Raises:
            UserError: says why it makes no sense.
        """
        refused: list[tuple[str, object, str]]
        if kind.needs_gpu:
            refused = [("--gpu", self.gpus, "builds for the GPU that it runs on; --hardware-compatible is for others")]
        else:
            refused = [
                ("--timing-cache", self.timing_cache, "times nothing when it builds, so there is nothing to keep"),
                ("--plugin", self.plugin, "has no means to take a kernel into an engine; leave the option out"),
                ("--version-compatible", self.version_compatible, "builds for its own version; build one for each"),
                ("--hardware-compatible", self.hardware_compatible, "does so by itself; --gpu builds for other GPUs"),
            ]
        for option, given, why in refused:
            if given:
                raise UserError(f"{option}: {kind.title} {why}")


DEFAULTS = BuildOptions()
