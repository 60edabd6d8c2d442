"""docs/hardening.md quotes the rules and the limits of the code, and carries the recorded figures."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdguard.runtime import strip, tile_check
from kdguard.runtime.analysis.analyse import (
    MAX_CHANNELS,
    MIN_POSITIONS,
    SENSITIVITY_IMAGES,
    SENSITIVITY_SIDE,
    SPECTRUM_IMAGES,
    SPECTRUM_SIDE,
)
from kdguard.runtime.auto import dispatch, options, split
from kdguard.runtime.cli import app
from kdguard.runtime.commands.options import PlacementOption
from kdguard.runtime.compensation import candidate, reserve, scan, search
from kdguard.runtime.fidelity import BETWEEN_MARGIN_DB, WORST_MARGIN_DB
from tests.conftest import QUICKSTART, ROOT

GUIDE = (ROOT / "docs" / "hardening.md").read_text()
FLAT = " ".join(GUIDE.split())
sys.path.insert(0, str(ROOT / "benchmarks"))  # as for a script that is run there
TABLES = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
sys.path.pop(0)
PARTS = list(TABLES["PARTS"])


def test_every_placement_is_described() -> None:
    for placement in PlacementOption:
        assert f"| `{placement.value}` |" in GUIDE


def test_limits_are_those_of_the_code() -> None:
    trials = 2 * len(search.RANKS) * (search.SCREENED + search.DEEPEST) + search.REFINED * search.REFINEMENTS
    for stated in (
        f"{SPECTRUM_IMAGES} crops of {SPECTRUM_SIDE} pixels, {SENSITIVITY_IMAGES} of {SENSITIVITY_SIDE}",
        f"| fit | up to {split.FIT_IMAGES},",
        f"| trial | up to {split.TRIAL_IMAGES} ",
        f"| check | up to {split.CHECK_IMAGES},",
        f"loses more than {split.CROP_LOSS_DB:g} dB on them",
        f"teacher's own PSNR + {BETWEEN_MARGIN_DB:g} dB, and + {WORST_MARGIN_DB:g} dB on every image",
        f"{options.HardenOptions().budget_db} dB unless told otherwise",
        f"on {strip.REFIT_IMAGES} unlabeled images",
        f"gain {dispatch.UNCALIBRATED_GAIN:g} then",
        f"on up to {tile_check.IMAGES} check images",
        f"by more than {tile_check.TOLERATED_DB:g} dB less",
        f"more than {MAX_CHANNELS} channels, fewer than {MIN_POSITIONS} positions",
        f"more than {candidate.MAX_PATCH} values at once",
        f"keep {reserve.CHECK_MARGIN_DB:g} dB more than the gates ask for",
        f"three quarters of the budget and {reserve.CHECK_SSIM} of SSIM",
        f"costs less than {scan.WORTHWHILE_DB} dB",
        f"at most {search.SCREENED + search.DEEPEST} maps are fitted, and at most {trials} gains",
    ):
        assert stated in FLAT, stated


def test_32_images_fill_every_part() -> None:
    check = 32 // 4
    fit = (32 - check) // 2
    assert check >= split.CHECK_IMAGES and fit >= split.FIT_IMAGES and fit >= split.TRIAL_IMAGES
    assert "32 fill every part" in FLAT


@pytest.mark.parametrize("name", PARTS)
def test_documents_carry_the_rules_and_the_recorded_figures(name: str) -> None:
    """Where this fails: python benchmarks/tables.py --write."""
    document = (ROOT / TABLES["PARTS"][name][0]).read_text()
    assert TABLES["filled"](document, name, TABLES["part"](name)) == document


def test_a_part_that_was_not_recorded_says_how(tmp_path: Path) -> None:
    assert "python benchmarks/zoo_latency.py > " in TABLES["part"]("latency", tmp_path)


def test_a_document_without_the_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        TABLES["filled"]("nothing here", "harden", "x")


def recorded(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    (folder / f"{name}.json").write_text(json.dumps({"results": rows}))
    return folder


def harden_row(task: str, strip_db: float, refitted_db: float | None) -> dict[str, Any]:
    """As benchmarks/zoo_harden.py writes it, with figures that nobody measured."""
    layers = [{"layer": "a", "placement": "paired", "gain": 10.0}]
    if refitted_db is not None:
        layers.append({"layer": "b", "placement": "compensated", "gain": 0.5})
    return {
        "task": task,
        "seconds": 60.4,
        "peak_gib": 1.25,
        "layers": layers,
        "coverage": {"perturbed": 1, "taps": 4},
        "test": {"n": 8, "delta_psnr_db": -0.0001},
        "above_floor_db": 3.0,
        "strip": {"stripped_loss_db": strip_db, "refitted_loss_db": refitted_db, "refit_images": 4},
        "tiling": {"tile": 64, "overlap": 8, "clean_db": 150.0, "hardened_db": 61.0} if refitted_db else None,
    }


def test_tables_of_made_up_results(tmp_path: Path) -> None:
    rows = harden_row("x", 2.0, -0.01), harden_row("y", 0.0, None)
    folder = recorded(tmp_path, "zoo_harden", *rows)
    _, _, first, second = TABLES["part"]("harden", folder).splitlines()
    assert first == (
        "| x, 8 pairs | 1 paired, `b` compensated, gain 0.50 | 1 of 4 | 0.000 dB | 3.0 dB | 2.00 dB | -0.01 dB "
        "| 60 s, 1.2 GiB |"
    )
    assert second.split(" | ")[-2:] == ["-", "60 s, 1.2 GiB |"]
    tiles = TABLES["part"]("tiling", folder).splitlines()
    assert tiles[2] == "| x | 64, 8 pixels | identical up to rounding | 61.0 dB |"
    assert tiles[3] == "| y | - | not measured | not measured |"
    sentence = TABLES["part"]("strip", folder)
    assert "on 1 of them; deleting every node of ours costs 2.00 dB there, and -0.01 dB after" in sentence


def test_ranges_over_layers(tmp_path: Path) -> None:
    row = {"task": "x", "op": "default", "relative_distortion": 2.0, "linear_undo_error": 0.5}
    first, second = row | {"network_undo_error": 0.4}, row | {"network_undo_error": 0.6}
    folder = recorded(tmp_path, "feature_undo", first, second)
    assert TABLES["part"]("undo", folder).endswith("| x | 2 | default | 2.00 | 0.50 | 0.40 to 0.60 |")


def latency_row(task: str, ratio: float, **estimates: float) -> dict[str, Any]:
    """As benchmarks/zoo_latency.py writes it."""
    return {
        "task": task,
        "input": [1, 3, 8, 8],
        "clean_ms": 200.0,
        "ratio": ratio,
        "ratio_native": 1.0125,
        "native_from_function": 2e-6,
        "ratio_paired_only": 1.02,
        "ratio_compensated_only": None,
        "paired_layers": 2,
        **estimates,
    }


def test_measured_and_estimated_times(tmp_path: Path) -> None:
    """Two paired nodes of half a million values each add 2 % of 200 ms."""
    estimates = {"estimated_ratio": 1.1234, "estimated_clean_cost": 4e10, "paired_values": 1_000_000}
    rows = latency_row("denoising", 1.051, **estimates), latency_row("underwater", 1.1)
    folder = recorded(tmp_path, "zoo_latency", *rows)
    lines = TABLES["part"]("latency", folder).splitlines()
    assert lines[2] == "| denoising | 1x3x8x8 | 200 ms | 1.051 | 1.012 | 1.123 | 1.020 (2) | - |"
    assert lines[3] == "| underwater | 1x3x8x8 | 200 ms | 1.100 | 1.012 | - | 1.020 (2) | - |"
    _, _, *nodes = TABLES["part"]("latency of nodes", folder).splitlines()
    assert nodes == ["| denoising | 2.0 ms | 4.0 ns | 5.0 ms |"]
    goals = TABLES["part"]("latency goals", folder)
    assert goals == "Goals for hardened / clean: denoising 1.05, underwater 1.10. Missed: denoising with 1.051."
    assert "On 2 published teachers" in TABLES["part"]("native parity", folder)
    assert "differ by at most 2e-06 of" in TABLES["part"]("native parity", folder)
    folder = recorded(tmp_path, "zoo_latency", latency_row("underwater", 1.1))
    assert TABLES["part"]("latency goals", folder).endswith("Missed: none.")


@pytest.mark.slow
def test_the_guides_command_runs(tmp_path: Path, quickstart_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(QUICKSTART)
    import photographs  # type: ignore[import-not-found]

    photographs.prepare(Path("runs/first/data"))
    shutil.copy(quickstart_teacher, "runs/teacher.onnx")
    _, *arguments = shlex.split(block.replace("\\\n", " "))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    manifest = json.loads(Path("runs/hardened.manifest.json").read_text())
    assert manifest["strip"]["n"] and manifest["coverage"]["taps"]
    assert list(Path("runs/cache").glob("analysis-*.json"))
