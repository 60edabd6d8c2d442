"""Arguments and pipeline fields that cannot be: one line with the name, the value and what is allowed; exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.pipeline import load_pipeline
from tests.conftest import QUICKSTART
from tests.runtime.commands.command_line import CommandLine

JARGON = ("Input should", "Value error", "│", "instance of", "unable to parse", "dictionary")

HARDEN = ["harden", "t.onnx", "-o", "h.onnx"]
VERIFY = ["verify", "t.onnx", "h.onnx"]
ATTACK = ["attack", "h.onnx", "--teacher", "t.onnx", "--data", "pairs"]
EXPORT = ["export", "teacher:derain_edsr", "-o", "t.onnx"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*HARDEN, "--max-slowdown", "0.5"], "--max-slowdown: 0.5 is too small; give 1 or more"),
        ([*HARDEN, "--max-slowdown", "11"], "--max-slowdown: 11 is too large; give 10 or less"),
        ([*HARDEN, "--rank", "abc"], "--rank: abc is not a whole number"),
        ([*HARDEN, "--rank", "2.5"], "--rank: 2.5 is not a whole number"),
        ([*HARDEN, "--adaptive", "much"], "--adaptive: much is not a number"),
        ([*HARDEN, "--seed", "-1"], "--seed: -1 is too small; give 0 or more"),
        (
            [*HARDEN, "--placement", "foo"],
            "--placement: foo is not allowed; give 'auto', 'in-path', 'paired' or 'compensated'",
        ),
        (
            [*HARDEN, "--layers", "auto,relu"],
            "--layers auto,relu: auto stands alone, since it leaves the choice to kdguard; leave it out, or the other "
            "layers",
        ),
        ([*HARDEN, "--bogus"], "no such option: --bogus; see `kdguard harden --help`"),
        (["harden"], "MODEL is missing: The teacher, an ONNX model."),
        (["harden", "t.onnx"], "--output is missing: The hardened .onnx file to write."),
        (["build", "h.onnx"], "--output is missing: The engine to write; its manifest is OUTPUT.json."),
        ([*VERIFY, "--data", "pairs", "--budget-db", "-1"], "--budget-db: -1 is too small; give 0 or more"),
        ([*ATTACK, "--steps", "0"], "--steps: 0 is too small; give 1 or more"),
        ([*ATTACK, "--seeds", "0"], "--seeds: 0 is too small; give 1 or more"),
        (["inspect", "t.onnx", "a", "b"], "too many arguments: a b; see `kdguard inspect --help`"),
        (["build", "h.onnx", "-o", "e", "--shapes", "8x8"], "--shapes takes 3 values, with spaces between them"),
        ([*HARDEN, "a"], "too many arguments: a; see `kdguard harden --help`"),
        (["bogus"], "no such command 'bogus'; see `kdguard --help`"),
        ([*EXPORT, "--channels", "4"], "--channels: 4 is not allowed; give 1 or 3"),
        ([*EXPORT, "--layout", "CHW"], "--layout: CHW is not allowed; give 'NCHW' or 'NHWC'"),
        ([*EXPORT, "--value-range", "0", "inf"], "--value-range: inf is not a finite number"),
        ([*EXPORT, "--value-range", "1", "1"], "--value-range: white must be above black, and 1 is not above 1"),
        ([*EXPORT, "--size-multiple", "0"], "--size-multiple: 0 is too small; give 1 or more"),
    ],
)
def test_one_line_for_every_bad_argument(
    kdguard: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kdguard.refuses(*arguments) == f"kdguard: {line}"
    assert len(kdguard.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rank", "99"], "--rank: 99 is too large; give 16 or less"),
        (["--gain", "-1"], "--gain: -1 is too small; give more than 0"),
        (["--gain", "nan"], "--gain: nan is not a "),
        (["--adaptive", "2"], "--adaptive: 2 is too large; give 1 or less"),
        (["--budget-db", "500"], "--budget-db 500: give 0 to 100 dB"),
        (["--max-slowdown", "nan"], "--max-slowdown: nan is not a number; give"),
    ],
)
def test_values_that_the_op_does_not_take(
    kdguard: CommandLine, conv_net_file: Path, tmp_path: Path, arguments: list[str], line: str
) -> None:
    found = kdguard.refuses("harden", conv_net_file, "-o", tmp_path / "h.onnx", "--layers", "b", *arguments)
    assert found.startswith(f"kdguard: {line}")
    assert not (tmp_path / "h.onnx").exists()


def test_missing_data_says_what_the_folder_holds(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    both = [conv_net_file, conv_net_file]
    for line in (kdguard.refuses("verify", *both), kdguard.refuses("verify", *both, "--data", tmp_path / "absent")):
        assert "clean/ and degraded/" in line
        assert "clean/ alone" in line
    harden = ["harden", conv_net_file, "-o", tmp_path / "h.onnx"]
    assert "clean/ alone" in kdguard.refuses(*harden)
    line = kdguard.refuses("verify", *both, "--data", conv_net_file)
    assert f"{conv_net_file}: that is a file; give a folder that holds clean/" in line
    line = kdguard.refuses("export", "teacher:derain_edsr", "-o", tmp_path / "e.onnx", "--data", conv_net_file)
    assert f"{conv_net_file}: that is a file; give a folder that holds clean/" in line
    assert kdguard("verify", "--help") == 0
    assert "clean/ alone" in " ".join(kdguard.out.replace("│", " ").split())


def test_no_arguments_show_the_help(kdguard: CommandLine) -> None:
    assert kdguard() == 0
    assert "harden" in kdguard.out


def test_swapped_models_are_noticed(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    hardened = tmp_path / "h.onnx"
    assert kdguard("harden", conv_net_file, "-o", hardened, "--layers", "b") == 0
    line = kdguard.refuses("verify", hardened, conv_net_file, "--data", pairs_folder)
    assert "look swapped" in line
    assert str(hardened) in line
    line = kdguard.refuses("attack", conv_net_file, "--teacher", hardened, "--data", pairs_folder)
    assert "look swapped" in line
    # A hardened teacher that was hardened further is no mistake.
    assert kdguard("verify", hardened, hardened, "--data", pairs_folder) == 0


def test_inspect_shows_what_is_hardened_with_data_too(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    hardened = tmp_path / "h.onnx"
    assert kdguard("harden", conv_net_file, "-o", hardened, "--layers", "b", "--rank", 2) == 0
    shown = []
    for data in ([], ["--data", pairs_folder]):
        assert kdguard("inspect", hardened, *data) == 0, kdguard.err
        assert "5 feature maps, 1 hardened" in kdguard.out
        assert "kdguard" in kdguard.out
        rows = [line for line in kdguard.out.splitlines() if line.startswith("│")]
        shown.append([row.split("│")[1].strip() for row in rows if row.split("│")[1].strip()])
        (row,) = (row for row in rows if row.split("│")[1].strip() == "b")
        assert "Relu" in row
        assert "paired" in row
    assert shown == [["a", "b", "c", "d", "tail"]] * 2


def test_a_cache_for_nothing_is_refused(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    line = kdguard.refuses("inspect", conv_net_file, "--cache", tmp_path / "cache")
    assert "--cache" in line
    assert "without --data nothing is measured" in line


def test_tile_safe_cannot_be_judged_without_images(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    harden = ["harden", conv_net_file, "-o", tmp_path / "h.onnx", "--layers", "b", "--tile-safe"]
    line = kdguard.refuses(*harden, "--placement", "in-path", "--gain", 2)
    assert "--tile-safe" in line
    assert "give --data" in line
    assert "--placement paired" in line
    assert not (tmp_path / "h.onnx").exists()
    for placement in ("paired", "auto"):
        assert kdguard(*harden, "--placement", placement) == 0, kdguard.err
        assert "not used: tile-safe" in kdguard.out


def test_harden_prints_the_estimated_time(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    arguments = [conv_net_file, "-o", tmp_path / "h.onnx", "--layers", "b", "--data", pairs_folder]
    assert kdguard("harden", *arguments) == 0, kdguard.err
    assert "of the clean model's: from a cost model, not timed" in kdguard.out
    assert kdguard("harden", "--help") == 0
    assert "estimate, no promise" in " ".join(kdguard.out.replace("│", " ").split())


PIPELINE = """
name: p
task: deraining
out: out
teacher: {onnx: t.onnx}
data: {train: x, calibration: x, test: y}
"""


def pipeline_file(folder: Path, text: str) -> Path:
    (folder / "p.yaml").write_text(text)
    return folder / "p.yaml"


def test_empty_sections_are_defaults(tmp_path: Path) -> None:
    plain = load_pipeline(pipeline_file(tmp_path, PIPELINE))
    for empty in ("harden:", "attack:", "harden:\nattack:", "attack:\n  training:"):
        assert load_pipeline(pipeline_file(tmp_path, f"{PIPELINE}{empty}\n")) == plain


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("", "harden: {rank: 0}"), "harden.rank: 0 is too small; give 1 or more"),
        (("", "harden: {gain: much}"), "harden.gain: much is not a number"),
        (("", "harden: {gain: 0}"), "harden.gain: 0 is too small; give more than 0"),
        (("", "harden: {layers: b}"), "harden.layers: b is not a list; write it in brackets"),
        (("", "harden: {layers: }"), "harden.layers: is empty; give a value, or leave it out"),
        (("", "harden: {layers: [auto, b]}"), "harden: auto stands alone, since it leaves the choice to kdguard"),
        (("", "harden: {layers: [auto], op_types: [Relu]}"), "harden: auto stands alone"),
        (("", "harden: {placement: inline}"), "harden.placement: inline is not allowed; give 'auto', 'in-path', "),
        (("", "harden: {tile_safe: maybe}"), "harden.tile_safe: maybe is neither true nor false"),
        (("", "harden: 3"), "harden: 3 is not a section; put its fields below it, indented"),
        (("", "harden: {gian: 3}"), "harden.gian: no such field; docs/pipeline.md lists them"),
        (("", "attack: {training: {steps: 0}}"), "attack.training.steps: 0 is too small; give 1 or more"),
        (("", "attack: {recipes: []}"), "attack.recipes: [] is too short; give 1 or more values"),
        (("", "seed: -1"), "seed: -1 is too small; give 0 or more"),
        (("", "harden: {budget_db: yes}"), "harden.budget_db: true (as YAML reads yes and on) is not a number"),
        (("", "harden: {rank: true}"), "harden.rank: true (as YAML reads yes and on) is not a number"),
        (("", "harden: {gain: on}"), "harden.gain: true (as YAML reads yes and on) is not a number"),
        (("", "attack: {seeds: yes}"), "attack.seeds: true (as YAML reads yes and on) is not a number"),
        (("", "attack: {training: {steps: on}}"), "attack.training.steps: true (as YAML reads yes and on) is not a"),
        (("", "attack: {training: {learning_rates: [yes]}}"), "attack.training.learning_rates: true (as YAML reads"),
        (("", "seed: off"), "seed: false (as YAML reads no and off) is not a number"),
        (("{onnx: t.onnx}", "{source: 'a:b', channels: yes}"), "teacher.channels: true (as YAML reads yes and on)"),
        (("{onnx: t.onnx}", "{source: 'a:b', value_range: [no, 1]}"), "teacher.value_range: false (as YAML reads no"),
        (("name: p", "name: 7"), "name: 7 is not text; put it in quotes"),
        (("name: p", "name: ''"), "name: '' is too short; give 1 or more characters"),
        (("name: p\n", ""), "name: missing"),
        (("name: p", "name:"), "name: is empty; give a value"),
        (("out: out", "out:"), "out: is empty; give a value"),
        (("", "seed:"), "seed: is empty; give a value, or leave it out"),
        (("", "attack: {training: {steps: }}"), "attack.training.steps: is empty; give a value, or leave it out"),
        (("", "attack: {recipes: [~]}"), "attack.recipes.0: is empty; give a value, or leave it out"),
        (("{onnx:", "{channels: 3, onnx:"), "teacher: leave out channels: beside onnx only value_range, layout, "),
        (
            ("{onnx: t.onnx}", "{source: 'a:b', extra_input: {l: 1}}"),
            "teacher: leave out extra_input: it goes with onnx",
        ),
        (("{onnx:", "{extra_input: 1, onnx:"), "teacher.extra_input: 1 is not a mapping; write NAME: VALUE below it"),
        (("{onnx:", "{extra_input: {l: much}, onnx:"), "teacher.extra_input.l.0: much is not a number"),
        (("{onnx:", "{value_range: [1, 0], onnx:"), "teacher.value_range: white must be above black"),
        (("teacher: {onnx: t.onnx}", "teacher:"), "teacher: give either source (and weights), or onnx"),
        (("data: {train: x, calibration: x, test: y}", "data:"), "data: give either prepare, or all of train"),
    ],
)
def test_pipeline_fields_in_plain_words(
    kdguard: CommandLine, tmp_path: Path, change: tuple[str, str], line: str
) -> None:
    old, new = change
    path = pipeline_file(tmp_path, PIPELINE.replace(old, new) if old else f"{PIPELINE}{new}\n")
    found = kdguard.refuses("run", path)
    assert found.startswith(f"kdguard: {path}: {line}")
    assert ("or leave it out" in found) == ("or leave it out" in line)
    assert not any(word in found for word in JARGON)


def test_auto_means_what_it_means_on_the_command_line(tmp_path: Path) -> None:
    plain = load_pipeline(pipeline_file(tmp_path, PIPELINE)).harden.options(0, tmp_path)
    for said in (
        "layers: auto",
        "gain: auto",
        "layers: [auto], gain: auto",
        "layers: auto, gain: auto, placement: auto",
    ):
        written = load_pipeline(pipeline_file(tmp_path, f"{PIPELINE}harden: {{{said}}}\n")).harden.options(0, tmp_path)
        assert written.chooses_layers
        assert written.fixed_gain is None
        assert tuple(written.globs) == tuple(plain.globs)
    named = load_pipeline(pipeline_file(tmp_path, f"{PIPELINE}harden: {{layers: [b], gain: auto}}\n"))
    assert tuple(named.harden.options(0, tmp_path).globs) == ("b",)


@pytest.mark.parametrize("name", ["h.pt", "h.pth", "h.PTH"])
def test_no_onnx_file_gets_a_torch_name(kdguard: CommandLine, tmp_path: Path, name: str) -> None:
    out = ["-o", tmp_path / name]
    for command in (
        ["harden", "t.onnx", *out],
        ["baseline", "output-noise", "t.onnx", *out, "--data", "pairs"],
        ["export", "teacher:derain_edsr", *out],
    ):
        line = kdguard.refuses(*command)
        assert line == (
            f"kdguard: cannot write {tmp_path / name}: that is a name for a torch file; give a name that ends in .onnx"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_gain_of_one_is_kept_by_pipeline_and_command_line(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    written = load_pipeline(pipeline_file(tmp_path, f"{PIPELINE}harden: {{layers: [b], gain: 1}}\n"))
    assert written.harden.options(0, tmp_path).fixed_gain == 1
    free = load_pipeline(pipeline_file(tmp_path, f"{PIPELINE}harden: {{layers: [b], rank: 2}}\n"))
    assert free.harden.options(0, tmp_path).fixed_gain is None
    arguments = ["--layers", "b", "--gain", "1", "--data", pairs_folder]
    assert kdguard("harden", conv_net_file, "-o", tmp_path / "h.onnx", *arguments) == 0, kdguard.err
    (entry,) = hardened_layers(load_onnx(tmp_path / "h.onnx"))
    assert entry.attributes["gain"] == 1


def test_value_range_is_spelled_alike_everywhere(kdguard: CommandLine, tmp_path: Path) -> None:
    for command in ("export", "inspect", "harden", "verify", "attack"):
        assert kdguard(command, "--help") == 0
        assert "--value-range" in kdguard.out, command
    model = tmp_path / "t.onnx"
    export = ["export", "teacher:derain_edsr", "--path", QUICKSTART, "-o", model, "--weights"]
    assert kdguard(*export, QUICKSTART / "teacher.safetensors", "--value-range", -1, 1) == 0, kdguard.err
    assert kdguard("inspect", model) == 0
    assert "range -1 to 1" in kdguard.out
