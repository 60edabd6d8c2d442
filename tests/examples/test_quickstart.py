"""The quickstart end to end with few steps, and the split that its honesty rests on."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as PilImage

from kdguard.export.user_code import import_callable
from kdguard.runtime.pipeline import load_pipeline
from kdguard.runtime.report.summary import RunSummary
from kdguard.runtime.run import Overrides, run_pipeline
from tests.conftest import QUICKSTART
from tests.runtime.report.browser import browse, layout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    pipeline = QUICKSTART / "pipeline.yaml"
    run_pipeline(pipeline, load_pipeline(pipeline), Overrides(out=out, steps=20, seeds=2))
    return out


@pytest.fixture
def photographs() -> ModuleType:
    import_callable("photographs:prepare", QUICKSTART)
    return sys.modules["photographs"]


def test_run_folder_is_complete(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert {"teacher.onnx", "hardened.onnx", "manifest.json", "report.html", "summary.json"} <= names
    summary = RunSummary.model_validate_json((run_folder / "summary.json").read_text())
    assert summary.verdict.status == "pass"
    assert summary.fidelity.psnr_between_db > 110
    assert summary.fidelity.teacher.psnr > 33
    assert [layer.layer for layer in summary.manifest.layers] == ["add_20", "add_62", "add_104"]
    assert all(layer.relative_distortion and layer.relative_distortion > 10 for layer in summary.manifest.layers)
    assert len(summary.attack.rows) == 2 * 5
    assert json.loads((run_folder / "manifest.json").read_text()) == summary.manifest.model_dump(mode="json")


class References(HTMLParser):
    """Collects whatever a browser would fetch, and the headings."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_heading = tag == "h2"
        self.fetched += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href", "data", "srcset"}]

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings.append(data)
            self._in_heading = False


def test_report_is_self_contained_and_complete(run_folder: Path) -> None:
    html = (run_folder / "report.html").read_text()
    references = References()
    references.feed(html)
    assert references.fetched
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in references.fetched)
    assert "@import" not in html
    assert "<script" not in html
    assert references.headings[1:] == [
        "Fidelity",
        "Deleting our nodes",
        "In tiles",
        "Scoreboard",
        "Training curves",
        "Images",
        "Feature maps",
        "Spectra",
        "What was inserted",
        "How this was made",
    ]


def test_test_regions_are_never_trained_on(photographs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Number every pixel of every photograph and look for a number in two splits."""

    def numbered(name: str) -> np.ndarray:
        height, width = original(name).shape[:2]
        return np.arange(height * width).reshape(height, width, 1).repeat(3, axis=-1)

    original = photographs.photograph
    monkeypatch.setattr(photographs, "photograph", numbered)
    for name in photographs.PHOTOGRAPHS:
        seen = [set(photographs.region(name, split).ravel().tolist()) for split in photographs.SPLITS]
        assert all(seen)
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_data_is_reproducible(photographs: ModuleType, tmp_path: Path) -> None:
    for name in ("a", "b"):
        photographs.prepare(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 3 * 2 * len(photographs.PHOTOGRAPHS)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_shipped_weights_are_small_and_logged() -> None:
    assert (QUICKSTART / "teacher.safetensors").stat().st_size < 500_000
    log = [json.loads(line) for line in (QUICKSTART / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 8000
    assert log[-1]["calibration_psnr_db"] > log[0]["calibration_psnr_db"]


def test_report_renders_in_a_browser(run_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    browse(run_folder / "report.html", tmp_path, 1100, 5000, f"--screenshot={picture}")
    pixels = np.asarray(PilImage.open(picture).convert("RGB"), dtype=int)
    assert pixels.shape[:2] == (5000, 1100)
    # The verdict's green badge, the clean and hardened colours of the plots, and a page that goes on far down.
    for colour in ((22, 163, 74), (37, 99, 235), (220, 38, 38)):
        assert (np.abs(pixels - colour).sum(axis=-1) < 12).sum() > 100, colour
    assert len(np.unique(pixels[2500:3500].reshape(-1, 3), axis=0)) > 100
    for width in (1100, 420):
        page = layout(run_folder / "report.html", tmp_path, width)
        assert page["beyond"] <= 0
        assert all(table["beyond"] < 0 for table in page["tables"])
