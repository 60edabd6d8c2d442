from __future__ import annotations

import pytest

from tests.runtime.commands.command_line import CommandLine


@pytest.fixture
def kdguard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(capsys, monkeypatch)
