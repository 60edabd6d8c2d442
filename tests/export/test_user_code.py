"""Importing what the user named, from where he said, with his errors in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdguard.export.errors import UserError
from kdguard.export.user_code import import_callable


def test_imports_are_looked_up_beside_the_given_folder_only_while_importing(tmp_path: Path) -> None:
    (tmp_path / "fresh_module_for_test.py").write_text("def f():\n    return 7\n")
    assert import_callable("fresh_module_for_test:f", tmp_path)() == 7
    assert str(tmp_path.resolve()) not in sys.path


def test_the_module_beside_the_file_wins_over_a_cached_namesake(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "namesake_for_test.py").write_text(f"def f():\n    return {value}\n")
    assert [import_callable("namesake_for_test:f", tmp_path / folder)() for folder in "aba"] == [1, 2, 1]


def test_errors_in_the_users_module_are_one_line(tmp_path: Path) -> None:
    for name, text in (("syntax", "def f(:\n"), ("missing", "import nowhere_at_all\n"), ("fails", "1 / 0\n")):
        (tmp_path / f"{name}_for_test.py").write_text(text)
        with pytest.raises(UserError, match="cannot import") as caught:
            import_callable(f"{name}_for_test:f", tmp_path)
        assert "\n" not in str(caught.value)
