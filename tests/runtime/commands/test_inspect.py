"""What `inspect` shows of hardened files: placements as far as they can be known, and no column without a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx
from kdguard.runtime.manifest import Manifest
from tests.conftest import make_conv_net
from tests.runtime.commands.command_line import CommandLine


def row(shown: str, layer: str) -> list[str]:
    """The cells of a layer's row."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    return next(found for found in cells if found[0] == layer)


@pytest.mark.parametrize("placement", ["in-path", "compensated"])
@pytest.mark.parametrize("folder", ["h.manifest.json", "manifest.json"])
def test_the_manifest_tells_compensated_from_in_path(
    kdguard: CommandLine, conv_net_file: Path, pairs_folder: Path, tmp_path: Path, placement: str, folder: str
) -> None:
    hardened, report = tmp_path / "h.onnx", tmp_path / "r.json"
    said = ["--layers", "b", "--placement", "in-path", "--gain", 2]
    assert kdguard("harden", conv_net_file, "-o", hardened, *said) == 0, kdguard.err
    written = tmp_path / "h.manifest.json"
    manifest = Manifest.model_validate_json(written.read_text())
    manifest.layers[0].placement = placement  # the graph is the same either way
    written.unlink()
    beside = tmp_path / folder
    beside.write_text(manifest.model_dump_json())
    for data in ([], ["--data", pairs_folder]):
        assert kdguard("inspect", hardened, *data, "--json", report) == 0, kdguard.err
        assert row(kdguard.out, "b")[-1].startswith(f"{placement}, rank")
        assert [entry["placement"] for entry in json.loads(report.read_text())["hardened"]] == [placement]
    beside.write_text(manifest.model_copy(update={"hardened_sha256": "0"}).model_dump_json())
    assert kdguard("inspect", hardened) == 0, kdguard.err
    assert row(kdguard.out, "b")[-1].startswith("in-path or compensated, rank")
    beside.unlink()
    assert kdguard("inspect", hardened) == 0, kdguard.err
    assert row(kdguard.out, "b")[-1].startswith("in-path or compensated, rank")


def test_hardening_further_keeps_what_the_first_manifest_told(
    kdguard: CommandLine, conv_net_file: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "h.onnx", tmp_path / "h2.onnx"
    said = ["--layers", "b", "--placement", "in-path", "--gain", 2]
    assert kdguard("harden", conv_net_file, "-o", first, *said) == 0, kdguard.err
    beside = tmp_path / "h.manifest.json"
    manifest = Manifest.model_validate_json(beside.read_text())
    manifest.layers[0].placement = "compensated"
    for text, placement in ((manifest.model_dump_json(), "compensated"), ("{}", "in-path or compensated")):
        beside.write_text(text)
        assert kdguard("harden", first, "-o", second, "--layers", "d", "--gain", 3) == 0, kdguard.err
        assert kdguard("inspect", second) == 0, kdguard.err
        assert row(kdguard.out, "b")[-1].startswith(f"{placement}, rank")
        assert row(kdguard.out, "d")[-1].startswith("paired, rank")


def test_every_column_has_a_name(kdguard: CommandLine, card: ModelCard, pairs_folder: Path, tmp_path: Path) -> None:
    model = make_conv_net()
    for weight in model.graph.initializer:
        if weight.name == "wc":
            weight.raw_data = bytes(len(weight.raw_data))
    write_card(model, card)
    save_onnx(model, tmp_path / "t.onnx")
    assert kdguard("inspect", tmp_path / "t.onnx", "--data", pairs_folder) == 0, kdguard.err
    heading = next(line for line in kdguard.out.splitlines() if line.startswith("┃"))
    assert all(name.strip() for name in heading.strip("┃").split("┃"))
    assert row(kdguard.out, "c")[-1] == "dead"
    assert row(kdguard.out, "b")[-1] == ""
