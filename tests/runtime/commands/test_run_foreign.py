"""Anybody's ONNX in a pipeline: its fields say what the model does not, and messages name those fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdguard.export.model_card import read_card
from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.runtime.bench.options import BenchOptions
from kdguard.runtime.manifest import find_manifest
from kdguard.runtime.pipeline import load_pipeline
from tests.conftest import photograph
from tests.foreign_models import in_value_range, with_noise_level
from tests.runtime.commands.command_line import CommandLine

TEXT = """
name: p
task: denoising
out: {out}
teacher: {{onnx: t.onnx}}
data: {{train: pairs, calibration: pairs, test: test}}
harden: {{layers: [smooth], gain: 10, rank: 2}}
attack: {{recipes: [scratch], seeds: 1, tiles: 2, training: {{steps: 1}}}}
"""


@pytest.fixture
def pipeline(tmp_path: Path, pairs_folder: Path, write_images: Callable[..., None]) -> Callable[[str], Path]:
    """Write a pipeline around a model in [0, 255] with a further input: pipeline(what its teacher section says)."""
    save_onnx(with_noise_level(in_value_range(0, 255), [1]), tmp_path / "t.onnx")
    for kind in ("clean", "degraded"):
        write_images(tmp_path / "test" / kind, t=photograph(offset=300))
    assert pairs_folder == tmp_path / "pairs"

    def write(said: str) -> Path:
        text = TEXT.format(out=tmp_path / "out").replace("onnx: t.onnx", f"onnx: t.onnx{said}")
        (tmp_path / "p.yaml").write_text(text)
        return tmp_path / "p.yaml"

    return write


def test_what_the_file_does_not_say_the_pipeline_does(
    kdguard: CommandLine, pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    said = ", value_range: [0, 255], layout: NCHW, size_multiple: 8, extra_input: {level: 1}"
    assert kdguard("run", pipeline(said)) == 0, kdguard.err
    assert "taken" not in kdguard.out
    for name in ("teacher.onnx", "hardened.onnx"):
        card = read_card(load_onnx(tmp_path / "out" / name))
        assert card is not None
        assert (card.value_range, card.size_multiple, card.extra_inputs) == ((0.0, 255.0), 8, {"level": [1.0]})


def test_messages_name_the_fields(kdguard: CommandLine, pipeline: Callable[[str], Path]) -> None:
    assert "with teacher.extra_input: {level: VALUE}" in kdguard.refuses("run", pipeline(""))
    line = kdguard.refuses("run", pipeline(", extra_input: {sigma: 1}"))
    assert "teacher.extra_input sigma: t.onnx has no such input" in line
    assert kdguard("run", pipeline(", extra_input: {level: 1}")) == 0, kdguard.err
    assert "value range 0 to 255 taken" in kdguard.out
    assert "say teacher.value_range if that is wrong" in kdguard.out
    assert "--value-range" not in kdguard.out


def test_advice_of_the_stages_names_the_fields(kdguard: CommandLine, pipeline: Callable[[str], Path]) -> None:
    path = pipeline(", extra_input: {level: 1}, value_range: [0, 255]")
    text = path.read_text()
    path.write_text(text.replace("[smooth]", "[nowhere]"))
    assert "harden.layers 'nowhere' matches none of the" in kdguard.refuses("run", path)
    path.write_text(text.replace("gain: 10", "placement: in-path, gain: 1000"))
    line = kdguard.refuses("run", path, code=1)
    assert "Lower harden.gain, choose other harden.layers, or use harden.placement: paired" in line


def test_a_wrong_tap_is_told_before_hardening(
    kdguard: CommandLine, pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    path = pipeline(", extra_input: {level: 1}")
    text = path.read_text()
    for recipe in ("fitnets", "scratch"):  # nobody reads the second one's tap, but it was meant
        path.write_text(text.replace("[scratch],", f"[{recipe}], tap: conv_1,"))
        line = kdguard.refuses("run", path)
        assert "tap 'conv_1' is not a tensor of the teacher's graph; see `kdguard inspect MODEL`" in line
        assert not (tmp_path / "out" / "hardened.onnx").exists()


def test_the_bench_section(kdguard: CommandLine, pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    path = pipeline(", size_multiple: 8, extra_input: {level: 1}")
    text = path.read_text()
    for said, line in (
        ("{size: 60x64}", "bench.size: 60x64 is no multiple of 8, which the model needs; give 64x64, say"),
        ("{size: 64}", "bench.size: 64 is not text; put it in quotes"),
        ("{size: big}", "bench.size: 'big' is no image size; write HEIGHTxWIDTH, 720x1280 say"),
        ("{rounds: 0}", "bench.rounds: 0 is too small; give 1 or more"),
        ("{providers: [tensorrt]}", "bench.providers.0: tensorrt is not allowed; give 'cpu' or 'cuda'"),
    ):
        path.write_text(f"{text}bench: {said}\n")
        assert line in kdguard.refuses("run", path)
        assert not (tmp_path / "out" / "hardened.onnx").exists()
    path.write_text(f"{text}bench: {{size: 64x48, rounds: 1, threads: 1}}\n")
    assert kdguard("run", path) == 0, kdguard.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["bench"]["size"], summary["bench"]["rounds"]) == ([64, 48], 1)
    assert any(finding.startswith("Time, hardened over clean: ") for finding in summary["verdict"]["findings"])
    assert "<h2>Time</h2>" in (tmp_path / "out" / "report.html").read_text()


def test_the_box_section(kdguard: CommandLine, pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    path = pipeline(", size_multiple: 8, extra_input: {level: 1}")
    text = path.read_text()
    for kind in ("--gate", "--signing"):
        assert kdguard("keygen", kind, "-o", tmp_path / f"k{kind}") == 0, kdguard.err
    assert kdguard("keygen", "-o", tmp_path / "alice") == 0, kdguard.err
    for said, line in (
        ("{}", "name holders of keys: holders for a sealed box, gate for a gate in the graph"),
        (
            "{holders: alice.pub, hints: [smooth]}",
            "hints and ensemble are behind a gate",
        ),
        ("{gate: [k--gate.pub], sign_with: k--signing}", "sign_with signs a sealed box"),
        ("{holders: nobody.pub}", "nobody.pub"),
        ("{holders: alice}", "that is a secret key, which nobody else may see"),
        ("{gate: [k--gate.pub], hints: ['smooth:1', 'smooth:2']}", "'smooth' is named twice"),
        ("{gate: [k--gate]}", "that is a holder's secret, which nobody else may see"),
    ):
        path.write_text(f"{text}box: {said}\n")
        assert line in kdguard.refuses("run", path)
        assert not (tmp_path / "out" / "hardened.onnx").exists()
    path.write_text(
        f"{text}box: {{holders: alice.pub, sign_with: k--signing, gate: [k--gate.pub], hints: ['smooth:2']}}\n"
    )
    assert kdguard("run", path) == 0, kdguard.err
    box = json.loads((tmp_path / "out" / "summary.json").read_text())["box"]
    assert (box["gate"]["equal"], box["gate"]["images"], box["gate"]["hints"]) == (1, 1, ["smooth"])
    assert (box["sealed"]["hardened"], box["sealed"]["holders"]) == ("gated.onnx", 1)
    manifest = find_manifest(tmp_path / "out" / "gated.onnx")
    assert manifest is not None
    assert manifest.gate is not None
    assert (manifest.gate.hints, len(manifest.gate.holders)) == ({"smooth": 2}, 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Key holders</h2>" in page
    assert "The recipe <code>authorised</code> did not run" in page
    gated, unlocked = tmp_path / "out" / "gated.onnx", tmp_path / "unlocked.onnx"
    opened = ("unlock", gated, "--key", tmp_path / "alice", "-o", unlocked)
    assert kdguard(*opened, "--signed-by", tmp_path / "k--signing.pub") == 0, kdguard.err
    assert unlocked.read_bytes() == (tmp_path / "out" / "teacher.onnx").read_bytes()
    path.write_text(f"{text}box: {{holders: alice}}\n")
    assert "that is a secret key" in kdguard.refuses("run", path)
    assert (tmp_path / "out" / "report.html").read_text() == page, "an earlier run's results outlive a wrong key"


def test_the_bench_is_off_until_it_is_named(pipeline: Callable[[str], Path]) -> None:
    path = pipeline("")
    assert load_pipeline(path).bench is None
    path.write_text(f"{path.read_text()}bench:\n")
    assert load_pipeline(path).bench == BenchOptions()


def test_several_values_and_what_is_left_out(pipeline: Callable[[str], Path]) -> None:
    said = load_pipeline(pipeline(", extra_input: {a: 1, b: [1, 2.5]}")).teacher.overrides()
    assert said.extra_inputs == {"a": (1.0,), "b": (1.0, 2.5)}
    assert (said.value_range, said.layout, said.size_multiple) == (None, None, None)
    assert not load_pipeline(pipeline("")).teacher.overrides()
