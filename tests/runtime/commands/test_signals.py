"""Commands that are ended from outside: the right exit code, one line, and cleaned up like at any end."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import onnx
import pytest

from tests.runtime.commands.command_line import CommandLine


def test_interrupt_is_not_a_failed_gate(
    kdguard: CommandLine, conv_net_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdguard.export.onnx_files.load_onnx", interrupt)
    assert kdguard("inspect", conv_net_file) == 130


@pytest.mark.parametrize(("name", "code", "said"), [("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "terminal was")])
def test_a_signal_that_ends_it_cleans_up_like_an_interrupt(
    kdguard: CommandLine, conv_net_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, said: str
) -> None:
    """Sent twice, as a shell and the system do where a terminal is closed, which then takes no word either."""
    cleaned = []
    number = getattr(signal, name)

    def ended(*_: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            cleaned.append(True)

    def closed(*_: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            raise OSError(errno.EIO, "Input/output error")

    def before_it(*_: object) -> None:  # else a failure would end the test run
        raise AssertionError("nobody heeded it")

    before = signal.signal(number, before_it)
    try:
        for loading in (ended, closed):
            monkeypatch.setattr("kdguard.export.onnx_files.load_onnx", loading)
            assert said in kdguard.refuses("inspect", conv_net_file, code=code)
            assert signal.getsignal(number) == before_it
        assert cleaned
    finally:
        signal.signal(number, before)


def test_nohup_is_heeded(kdguard: CommandLine, conv_net_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was told to outlive its terminal does."""
    from kdguard.export.onnx_files import load_onnx

    def hangs_up(path: Path) -> onnx.ModelProto:
        signal.raise_signal(signal.SIGHUP)
        return load_onnx(path)

    monkeypatch.setattr("kdguard.export.onnx_files.load_onnx", hangs_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert kdguard("inspect", conv_net_file) == 0, kdguard.err
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
