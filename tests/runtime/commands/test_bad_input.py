"""Bad input beside the models themselves: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PilImage

from tests.conftest import QUICKSTART, photograph
from tests.runtime.commands.command_line import CommandLine, listing


def test_unequal_sizes_and_empty_folder(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    PilImage.fromarray(photograph(30)).save(pairs_folder / "degraded" / "p1.png")
    line = kdguard.refuses("verify", conv_net_file, conv_net_file, "--data", pairs_folder)
    assert "'p1.png' is 30x30 in degraded/ and 48x48 in clean/" in line
    (tmp_path / "empty").mkdir()
    assert "no clean/ folder" in kdguard.refuses("verify", conv_net_file, conv_net_file, "--data", tmp_path / "empty")
    (tmp_path / "empty" / "clean").mkdir()
    assert "no images" in kdguard.refuses("verify", conv_net_file, conv_net_file, "--data", tmp_path / "empty")


@pytest.mark.parametrize("target", ["/proc/h.onnx", "absent/h.onnx", "file/h.onnx", "."])
def test_unwritable_output(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    before = listing(tmp_path)
    assert "cannot write" in kdguard.refuses("harden", conv_net_file, "-o", tmp_path / target, "--layers", "b")
    assert "cannot write" in kdguard.refuses("inspect", conv_net_file, "--json", tmp_path / target)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rank", "0"], "--rank: "),
        (["--rank", "99"], "--rank: "),
        (["--gain", "-1"], "--gain: "),
        (["--gain", "nan"], "--gain: "),
        (["--gain", "1e300"], "--gain: "),
        (["--task", "derain"], "derain"),
    ],
)
def test_bad_options(
    kdguard: CommandLine, conv_net_file: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    assert reason in kdguard.refuses("harden", conv_net_file, "-o", tmp_path / "h.onnx", "--layers", "b", *arguments)
    assert not (tmp_path / "h.onnx").exists()


def test_export_refusals(kdguard: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(QUICKSTART)
    export = ["export", "teacher:derain_edsr", "--task", "deraining", "-o", tmp_path / "t.onnx"]
    assert "no such file" in kdguard.refuses(*export, "--weights", "absent.safetensors")
    assert "must be .safetensors" in kdguard.refuses(*export, "--weights", "teacher.py")
    assert "--layout" in kdguard.refuses(*export, "--layout", "CHW")
    assert "--channels" in kdguard.refuses(*export, "--channels", "4")
    for opset in ("11", "99"):
        assert "cannot be written" in kdguard.refuses(*export, "--opset", opset)
    assert "white must be above black" in kdguard.refuses(*export, "--value-range", "1", "1")
    assert "finite" in kdguard.refuses(*export, "--value-range", "0", "inf")
    assert "unknown task" in kdguard.refuses("export", "teacher:x", "--task", "upscaling", "-o", tmp_path / "t.onnx")
    assert listing(tmp_path) == []


PIPELINE = """
name: p
task: deraining
out: {out}
teacher: {{onnx: {teacher}}}
data: {{train: {data}, calibration: {data}, test: {test}}}
harden: {{layers: [b]}}
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("harden: {layers: [b]}", "harden: {layers: [b], gian: 3}"), "harden.gian"),
        (("task: deraining", "task: dereining"), "unknown task"),
        (("name: p", "name: ''"), "name"),
        (("layers: [b]}", "layers: [b], gain: .inf}"), "harden.gain"),
        (("layers: [b]}", "layers: [b], budget_db: .inf}"), "harden.budget_db"),
        (("layers: [b]}", "layers: [b]}\nattack: {recipes: [scratch, scratch]}"), "named twice"),
        (("name: p", "name: 2024-99-99"), "not valid YAML"),
        (("teacher: {onnx:", "teacher: {source: 'a:b', value_range: [1, 0]} # {onnx:"), "white must be above black"),
        (("teacher: {onnx:", "teacher: {source: 'a:b', size_multiple: 5000} # {onnx:"), "teacher.size_multiple"),
        (("teacher: {onnx:", "teacher: {weights: w.pth, onnx:"), "leave out weights: beside onnx only value_range, "),
        (("calibration: ", "prepare: 'a:b', calibration: "), "give either prepare, or all of"),
        (("teacher: {onnx:", "teacher: {weights:"), "give either source (and weights), or onnx"),
        (("out:", "out"), "not valid YAML"),
        (("harden: {layers: [b]}", "harden: {layers: [zzz]}"), "'zzz' matches none"),
        (("layers: [b]}", "layers: [b]}\nattack: {recipes: [fitnet]}"), "did you mean 'fitnets'"),
        (("layers: [b]}", "layers: [b]}\nattack: {training: {steps: 0}}"), "attack.training.steps"),
    ],
)
def test_bad_pipelines(
    kdguard: CommandLine,
    conv_net_file: Path,
    pairs_folder: Path,
    tmp_path: Path,
    change: tuple[str, str],
    reason: str,
    write_images: Callable[..., None],
) -> None:
    for kind in ("clean", "degraded"):
        write_images(tmp_path / "test" / kind, t=photograph(offset=300))
    text = PIPELINE.format(out=tmp_path / "out", teacher=conv_net_file, data=pairs_folder, test=tmp_path / "test")
    assert change[0] in text
    (tmp_path / "p.yaml").write_text(text.replace(*change))
    assert reason in kdguard.refuses("run", tmp_path / "p.yaml")
    assert not (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "hardened.onnx").exists()


def test_missing_pipeline_and_prepare(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    assert "no such file" in kdguard.refuses("run", tmp_path / "absent.yaml")
    text = PIPELINE.format(out=tmp_path / "out", teacher=conv_net_file, data="x", test="x")
    start = text.index("data:")
    text = text[:start] + "data: {prepare: nowhere_module:prepare}\nharden: {layers: [b]}\n"
    (tmp_path / "p.yaml").write_text(text)
    assert "cannot import 'nowhere_module'" in kdguard.refuses("run", tmp_path / "p.yaml")


def test_installed_script_shows_no_traceback(tmp_path: Path) -> None:
    """The real entry point in a process of its own."""
    script = Path(sys.executable).with_name("kdguard")
    done = subprocess.run([script, "inspect", tmp_path / "absent.onnx"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"kdguard: {tmp_path}/absent.onnx: no such file; give the path of an ONNX model\n"
    assert done.stdout == ""


def test_no_output_replaces_an_input(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path) -> None:
    folder = conv_net_file.parent
    other = folder / "other.onnx"
    other.write_bytes(conv_net_file.read_bytes())
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for arguments in (
        ["inspect", conv_net_file, "--json", conv_net_file],
        ["harden", conv_net_file, "-o", conv_net_file, "--layers", "b"],
        ["harden", conv_net_file, "-o", folder / "h.onnx", "--layers", "b", "--json", conv_net_file],
        ["harden", conv_net_file, "-o", folder / "h.onnx", "--layers", "b", "--json", folder / "h.onnx"],
        ["verify", conv_net_file, other, "--data", pairs_folder, "--json", other],
        ["attack", other, "--teacher", conv_net_file, "--data", pairs_folder, "--json", conv_net_file],
    ):
        assert "cannot write" in kdguard.refuses(*arguments)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_run_only_clears_folders_of_its_own(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    """The user's own data/ and manifest.json are not ours to delete."""
    out = tmp_path / "out"
    (out / "data").mkdir(parents=True)
    (out / "data" / "precious.txt").touch()
    (out / "manifest.json").write_text("{}")
    text = PIPELINE.format(out=out, teacher=conv_net_file, data=pairs_folder, test=pairs_folder)
    (tmp_path / "p.yaml").write_text(text)
    before = listing(out)
    assert "no run folder" in kdguard.refuses("run", tmp_path / "p.yaml")
    assert listing(out) == before
    (tmp_path / "p.yaml").write_text(text.replace(str(out), str(tmp_path)))
    assert "lies in the run folder" in kdguard.refuses("run", tmp_path / "p.yaml")
    assert conv_net_file.is_file()


def test_run_refuses_test_images_seen_before_and_drops_the_old_report(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".kdguard-run", "report.html", "summary.json"):
        (out / name).touch()
    text = PIPELINE.format(out=out, teacher=conv_net_file, data=pairs_folder, test=pairs_folder)
    (tmp_path / "p.yaml").write_text(text)
    assert "is also a training image" in kdguard.refuses("run", tmp_path / "p.yaml")
    assert not (out / "report.html").exists()
    assert not (out / "summary.json").exists()


def test_too_small_test_images_are_found_before_any_work(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path, write_images: Callable[..., None]
) -> None:
    for kind in ("clean", "degraded"):
        write_images(tmp_path / "tiny" / kind, t=photograph(9))
    line = kdguard.refuses(
        "attack", conv_net_file, "--teacher", conv_net_file, "--data", pairs_folder, "--test-data", tmp_path / "tiny",
        "--tap", "b",
    )  # fmt: skip
    assert "too small to score" in line


def test_run_writes_its_json_nowhere_it_reads(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".kdguard-run", "report.html"):
        (out / name).touch()
    text = PIPELINE.format(out=out, teacher=conv_net_file, data=pairs_folder, test=pairs_folder)
    (tmp_path / "p.yaml").write_text(text)
    before = listing(tmp_path)
    for target in (conv_net_file, pairs_folder / "clean" / "p0.png", out / "x.json", tmp_path / "absent" / "x.json"):
        assert "cannot write" in kdguard.refuses("run", tmp_path / "p.yaml", "--json", target)
    (tmp_path / "p.yaml").write_text(text.replace("train: ", "train: absent"))
    assert "no such file or folder" in kdguard.refuses("run", tmp_path / "p.yaml")
    assert listing(tmp_path) == before  # an earlier run's report is still there


def test_run_never_follows_links_out_of_its_folder(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "precious.txt").touch()
    (out / ".kdguard-run").touch()
    (out / "data").symlink_to(elsewhere)
    (out / "report.html").mkdir()
    text = PIPELINE.format(out=out, teacher=conv_net_file, data=pairs_folder, test=pairs_folder)
    (tmp_path / "p.yaml").write_text(text)
    assert "is also a training image" in kdguard.refuses("run", tmp_path / "p.yaml")
    assert listing(elsewhere) == ["precious.txt"]


@pytest.mark.parametrize("budget", ["-1", "nan", "inf"])
def test_bad_budgets(kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, budget: str) -> None:
    assert kdguard("verify", conv_net_file, conv_net_file, "--data", pairs_folder, "--budget-db", budget) == 2
    assert "Traceback" not in kdguard.err


def test_links_that_lead_in_a_circle(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    """Whatever they are given for is not there, or cannot be read."""
    loop, out = tmp_path / "loop", tmp_path / "out.onnx"
    loop.symlink_to(loop)
    for arguments in (
        ("inspect", loop),
        ("harden", loop, "-o", out, "--layers", "b"),
        ("build", loop, "-o", tmp_path / "out.engine"),
        ("gate", loop, "-o", out),
        ("gate", conv_net_file, "-o", out, "--holder", loop),
        ("seal", conv_net_file, "--teacher", loop, "--holders", loop),
        ("seal", conv_net_file, "--teacher", conv_net_file, "--holders", loop),
        ("unlock", loop, "--key", loop),
        ("unlock", conv_net_file, "--box", conv_net_file, "--key", loop),
        ("run", loop),
    ):
        before = listing(tmp_path)
        line = kdguard.refuses(*arguments)
        assert any(said in line for said in ("no such file", "Too many levels", "needs holders")), line
        assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["", "/", ".."])
def test_names_of_keys_that_name_nothing(kdguard: CommandLine, name: str) -> None:
    for kind in ((), ("--gate",), ("--signing",)):
        assert "is there already, and keys are never replaced" in kdguard.refuses("keygen", *kind, "-o", name)


def test_a_hardened_model_without_a_name(kdguard: CommandLine, conv_net_file: Path, tmp_path: Path) -> None:
    assert kdguard("keygen", "-o", tmp_path / "k") == 0
    assert "no such file; give the box" in kdguard.refuses("unlock", "", "--key", tmp_path / "k")
    sealed = kdguard.refuses("seal", "", "--teacher", conv_net_file, "--holders", tmp_path / "k.pub")
    assert "give the path of an ONNX model" in sealed
