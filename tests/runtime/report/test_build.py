"""What the report shows of the manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from kdguard.export.image_pairs import load_pairs
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import get_task
from kdguard.runtime.fidelity import RestoredImage
from kdguard.runtime.manifest import Coverage
from kdguard.runtime.red_team.trial import TrialResult
from kdguard.runtime.report.build import write_report
from kdguard.runtime.report.environment import current_environment
from kdguard.runtime.report.summary import RunSummary, conclude
from tests.runtime.report.browser import layout
from tests.runtime.report.made_up import bench, entry, fidelity, layer, manifest, scoreboard, strip, tiling


class Report:
    """Renders a manifest into the text of a report, tags and runs of spaces taken out."""

    def __init__(self, model: onnx.ModelProto, card: ModelCard, pairs: Path, target: Path) -> None:
        self._model, self._card, self._target = model, card, target
        (self._pair, *_) = load_pairs(pairs, get_task("deraining"))

    def __call__(self, **fields: Any) -> str:
        timed = fields.pop("bench", None)
        made, board = manifest(*fields.pop("layers", ()), **fields), scoreboard(entry("output-l1", "T0", 0.1, 0.2))
        summary = RunSummary(
            name="made up",
            task="deraining",
            verdict=conclude(fidelity(), board, made, timed),
            fidelity=fidelity(),
            attack=board,
            bench=timed,
            manifest=made,
            environment=current_environment(),
            seconds=1.0,
        )
        image = self._pair.degraded
        restored = [RestoredImage(self._pair, image, image)]
        trial = TrialResult("output-l1", "clean", 0, 30.0, 0.9, False, 10, [(1, 0.1), (2, 0.05)], image)
        write_report(self._target, summary, restored, [trial], (self._model, self._model), self._card)
        body = self._target.read_text().split("<body>")[1]
        return " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", body, flags=re.DOTALL).split())


@pytest.fixture
def report(conv_net: onnx.ModelProto, card: ModelCard, pairs_folder: Path, tmp_path: Path) -> Report:
    return Report(conv_net, card, pairs_folder, tmp_path / "report.html")


def test_everything_that_hardening_found_is_shown(report: Report) -> None:
    text = report(
        layers=[layer(reason="cheapest <map>"), layer("e", "compensated", refitted=["conv_7"], reason="strips well")],
        rules=["1. First rule.", "2. Second rule."],
        coverage=Coverage(perturbed=2, taps=9),
        skipped={"tokens": "3-D"},
        notes=["fewer than four calibration images; --max-slowdown (1.05) holds"],
        strip=strip(2.5, 0.031),
        tiling=tiling(60.0),
    )
    for shown in (
        "2 of 9 taps in the middle third of the network mislead",
        "why this layer",
        "cheapest &lt;map&gt;",
        "refitted: conv_7",
        "1. First rule. 2. Second rule.",
        "1 feature map passed over tokens 3-D",
        "fewer than four calibration images; harden.max_slowdown (1.05) holds",
        "every node of ours deleted, weights as shipped 32.500 dB 2.500 dB",
        "then readers refitted on 4 unlabeled images 34.969 dB 0.031 dB",
        "a claim against naive removal only; the last line",
        "clean teacher 77.0 dB hardened 60.0 dB seams",
    ):
        assert shown in text, shown


def test_paired_nodes_that_were_named(report: Report) -> None:
    text = report(strip=strip(0.0), tiling=tiling(150.0))
    assert "Paired nodes are undone by it." in text
    assert "hardened identical up to rounding no seams" in text
    for absent in ("why this layer", "refitted", "passed over", "Rules by which", "middle third"):
        assert absent not in text, absent


def test_what_was_not_measured_is_left_out(report: Report) -> None:
    text = report()
    assert "Deleting our nodes" not in text
    assert "In tiles" not in text
    assert "Hardened against clean" not in text


@pytest.mark.parametrize("width", [1100, 420])
def test_no_table_leaves_the_page(report: Report, tmp_path: Path, width: int) -> None:
    long = layer(
        "/body/blocks.11/attention/projection/MatMul_output_0", reason="the deepest map that can be moved " * 3
    )
    text = report(
        bench=bench(1.12), layers=[long], skipped={"/body/tokens": "3-D"}, strip=strip(2.5), tiling=tiling(60)
    )
    assert "The op alone" in text
    page = layout(tmp_path / "report.html", tmp_path, width)
    assert page["beyond"] <= 0
    assert {"Fidelity", "Time", "Scoreboard", "How this was made"} <= {table["heading"] for table in page["tables"]}
    for table in page["tables"]:
        assert table["beyond"] < 0, table
        if table["heading"] == "Time":
            assert table["broken"] == 0
            assert width < 1100 or table["hidden"] == 0


def test_what_was_timed(report: Report) -> None:
    text = report(bench=bench(1.12), estimated_slowdown=1.04)
    for shown in (
        "Time, hardened over clean: 1.12 (1.10 to 1.15) on CPUExecutionProvider, native kernels; images of 48x64",
        "medians of 21 rounds with 95 % intervals, images of 48x64, 2 threads",
        "CPUExecutionProvider, native kernels clean 100.00 (90.00 to 110.00) 10.00 1.50 51 MiB",
        "hardened 112.00 (100.80 to 123.20) 8.93 1.50 62 MiB 1.12 (1.10 to 1.15) 16 % by the profiler",
        "relu_&lt;1&gt;, relu_2 cpu: 8x48x64 float32, rank 4 3.00 (2.70 to 3.30) 12.00 (11.00 to 13.00)",
        "30.00 (29.00 to 31.00) 10.00",
        "cuda was left out: no GPU.",
        "wide was not timed alone on cpu: it is bfloat16.",
    ):
        assert shown in text, shown
    assert "other work" not in text
    assert "Other work kept 1.5 of 2 cores busy meanwhile" in report(bench=bench(1.12, busy=1.5))
    assert "by a cost model" not in text
