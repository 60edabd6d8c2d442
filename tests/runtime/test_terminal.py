"""What commands show while they work."""

from __future__ import annotations

import pytest

from kdguard.runtime.terminal import progress_bar


def test_work_that_is_done_sooner_than_expected_ends_with_a_full_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("scanning", 17) as advance:
        for _ in range(5):
            advance()
    assert "5/5" in capsys.readouterr().err


def test_work_that_is_broken_off_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), progress_bar("scanning", 17) as advance:
        advance()
        raise RuntimeError
    assert "1/17" in " ".join(capsys.readouterr().err.split()).replace(" /", "/")
