"""docs/box.md: its commands run as they stand, and so does its example."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kdguard.runtime.box.contents import Augmentation
from tests.conftest import ROOT
from tests.runtime.box.release import make_release
from tests.runtime.commands.command_line import CommandLine

GUIDE = (ROOT / "docs" / "box.md").read_text()


def test_the_commands_and_the_example_run(
    kdguard: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the releaser's folder; bob makes his key like alice."""
    release = make_release(tmp_path)
    for name in ("alice", "bob"):  # keys of the release's own
        for file in (release.key(name), tmp_path / f"{name}.key.pub"):
            file.unlink()
    monkeypatch.chdir(tmp_path)
    assert kdguard("keygen", "-o", "bob.key") == 0, kdguard.err
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("kdguard "):
                assert kdguard(*shlex.split(line)[1:]) == 0, kdguard.err
            else:
                subprocess.run(line, shell=True, check=True)
    assert Path("unlocked.onnx").read_bytes() == release.teacher.read_bytes()
    namespace: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0], namespace)
    assert namespace["unlocked"].report.holders == 2  # type: ignore[attr-defined]


def test_the_settings_are_some() -> None:
    (said,) = re.findall(r"as `({.*?})`", GUIDE)
    assert Augmentation.model_validate(json.loads(said)).hint_taps == ["relu_13"]
