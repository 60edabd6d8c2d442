"""Run the command line inside the test's process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdguard.runtime.cli import main


class CommandLine:
    """`kdguard(...)` returns the exit code; out and err hold what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        self._monkeypatch.setattr(sys, "argv", ["kdguard", *map(str, arguments)])
        self._capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return code

    def refuses(self, *arguments: object, code: int = 2) -> str:
        """The one line on standard error of a command that must fail with this code."""
        assert self(*arguments) == code, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("kdguard:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def listing(folder: Path) -> list[str]:
    """Everything below a folder, to see that nothing was written."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
