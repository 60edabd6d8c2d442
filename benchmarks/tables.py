"""The generated parts of the documents: tables from the files in benchmarks/results, rules from the code.

    python benchmarks/tables.py [--write]

Prints every part; `--write` puts each between its markers, `<!-- generated: NAME -->` and
`<!-- /generated -->`. A test compares the documents with what this makes.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import authorised
import gpu_tables
import key_gate_tables
import published_box
import red_team_tables
import scoreboards
import service_tables
from table_text import between, number, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]
IDENTICAL_DB = 100.0
"""Agreement beyond this differs by rounding only."""
SLOWDOWN_GOALS = {"super-resolution": 1.05, "underwater": 1.10, "denoising": 1.05}
"""Hardened over clean time that the defaults of `kdguard harden` were to reach."""


def compensated(row: Row) -> list[Row]:
    return [layer for layer in row["layers"] if layer["placement"] == "compensated"]


def harden_table(rows: Sequence[Row]) -> str:
    headings = ["task", "nodes", "taps covered", "loss", "above the floor", "strip", "refitted", "harden took"]

    def line(row: Row) -> list[str]:
        paired = sum(layer["placement"] == "paired" for layer in row["layers"])
        nodes = [f"{paired} paired"]
        nodes += [f"`{entry['layer']}` compensated, gain {number(entry['gain'])}" for entry in compensated(row)]
        coverage = row["coverage"]
        return [
            f"{row['task']}, {row['test']['n']} pairs",
            ", ".join(nodes),
            f"{coverage['perturbed']} of {coverage['taps']}" if coverage else "-",
            f"{number(row['test']['delta_psnr_db'], 3)} dB",
            f"{number(row['above_floor_db'], 1)} dB",
            f"{number(row['strip']['stripped_loss_db'])} dB",
            f"{number(row['strip']['refitted_loss_db'])} dB" if row["strip"]["refitted_loss_db"] is not None else "-",
            f"{row['seconds']:.0f} s, {number(row['peak_gib'], 1)} GiB",
        ]

    return table(headings, map(line, rows))


def tiling_table(rows: Sequence[Row]) -> str:
    headings = ["task", "tile, overlap", "clean teacher", "hardened"]

    def agreement(value: float) -> str:
        return "identical up to rounding" if value > IDENTICAL_DB else f"{number(value, 1)} dB"

    def line(row: Row) -> list[str]:
        tiling = row["tiling"]
        if tiling is None:
            return [row["task"], "-", "not measured", "not measured"]
        size = f"{tiling['tile']}, {tiling['overlap']} pixels"
        return [row["task"], size, agreement(tiling["clean_db"]), agreement(tiling["hardened_db"])]

    return table(headings, map(line, rows))


def latency_table(rows: Sequence[Row]) -> str:
    headings = [
        "task",
        "input",
        "clean",
        "hardened / clean",
        "by native kernels",
        "estimated",
        "paired nodes alone",
        "compensated node alone",
    ]
    return table(
        headings,
        (
            [
                row["task"],
                "x".join(map(str, row["input"])),
                f"{row['clean_ms']:.0f} ms",
                number(row["ratio"], 3),
                number(row["ratio_native"], 3),
                number(row.get("estimated_ratio"), 3),
                f"{number(row['ratio_paired_only'], 3)} ({row['paired_layers']})",
                number(row["ratio_compensated_only"], 3),
            ]
            for row in rows
        ),
    )


def goals_sentence(rows: Sequence[Row]) -> str:
    """Which goals for the whole model's time were missed."""
    set_for = [row for row in rows if row["task"] in SLOWDOWN_GOALS]
    goals = ", ".join(f"{row['task']} {number(SLOWDOWN_GOALS[row['task']])}" for row in set_for)
    missed = [
        f"{row['task']} with {number(row['ratio'], 3)}" for row in set_for if row["ratio"] > SLOWDOWN_GOALS[row["task"]]
    ]
    return f"Goals for hardened / clean: {goals}. Missed: {', '.join(missed) or 'none'}."


def node_time_table(rows: Sequence[Row]) -> str:
    """What one paired node adds, and how long the clean model takes for what the cost model counts."""
    headings = ["task", "a paired node adds", "per value of its map", "clean model, per 10^9 multiply-adds estimated"]

    def line(row: Row) -> list[str]:
        added_ms = (row["ratio_paired_only"] - 1) * row["clean_ms"]
        return [
            row["task"],
            f"{number(added_ms / row['paired_layers'], 1)} ms",
            f"{number(1e6 * added_ms / row['paired_values'], 1)} ns",
            f"{number(1e9 * row['clean_ms'] / row['estimated_clean_cost'], 1)} ms",
        ]

    return table(headings, (line(row) for row in rows if row["paired_layers"] and "estimated_clean_cost" in row))


def native_table(rows: Sequence[Row]) -> str:
    """The op's time over a convolution's, by function and by native kernels."""
    ways = list(rows[0]["over_convolution"])
    headings = ["map", "3x3 convolution", *ways]

    def line(row: Row) -> list[str]:
        shape = "x".join(map(str, row["channels, height, width"]))
        ratios = [number(row["over_convolution"][way], 3) for way in ways]
        return [shape, f"{number(row['convolution_ms'], 1)} ms", *ratios]

    return table(headings, map(line, rows))


def parity_sentence(rows: Sequence[Row]) -> str:
    """How far native kernels and functions are apart on whole hardened models."""
    worst = max(row["native_from_function"] for row in rows)
    return (
        f"On {len(rows)} published teachers, hardened at the defaults, outputs by native kernels and by functions "
        f"differ by at most {worst:.0e} of the value range (`benchmarks/results/zoo_latency.json`)."
    )


def sealing_table(rows: Sequence[Row]) -> str:
    names = ("seal", "unlock", "sha256", "encryption")
    headings = ["teacher", "MB/s", "sealed", "unlocked", "SHA-256 alone", "encryption alone", "memory before", "peak"]

    def line(row: Row, what: str, key: str) -> list[str]:
        rates = [f"{row[f'{name}_{key}']:.0f}" for name in names]
        return [
            f"{row['teacher_mb']} MB",
            what,
            *rates,
            *(f"{row[k]:.0f} MiB" for k in ("rss_before_mib", "peak_rss_mib")),
        ]

    kinds = (("by the clock", "mb_per_s"), ("by processor time", "mb_per_cpu_s"))
    return table(headings, (line(row, what, key) for row in rows for what, key in kinds))


def undo_table(rows: Sequence[Row]) -> str:
    headings = ["task", "layers", "op", "moved by, of its norm", "left after a linear undo", "after a small network"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["op"]), []).append(row)
    lines = [
        [
            task,
            str(len(group)),
            op,
            *(
                between([entry[key] for entry in group])
                for key in ("relative_distortion", "linear_undo_error", "network_undo_error")
            ),
        ]
        for (task, op), group in sorted(groups.items(), key=lambda item: item[0][0])
    ]
    return table(headings, lines)


def strip_sentence(rows: Sequence[Row]) -> str:
    """The T1s figures of the threat model."""
    held = [row for row in rows if compensated(row)]
    text = f"Measured on {len(rows)} published teachers at the defaults of `kdguard harden`: "
    if not held:
        return text + "none carries a compensated node, and deleting our nodes costs nothing."
    stripped = between([row["strip"]["stripped_loss_db"] for row in held])
    text += f"a compensated node on {len(held)} of them; deleting every node of ours costs {stripped} dB there"
    refitted = [row["strip"]["refitted_loss_db"] for row in held]
    if None not in refitted:
        images = max(row["strip"]["refit_images"] for row in held)
        text += f", and {between(refitted)} dB after refitting readers on {images} unlabeled images"
    return f"{text}. Below 0 he ends above the hardened model."


def rules(module: str, name: str = "RULES") -> Callable[[Sequence[Row]], str]:
    return lambda _: str(getattr(importlib.import_module(f"kdguard.runtime.auto.{module}"), name))


PARTS: dict[str, tuple[str, str | None, Callable[[Sequence[Row]], str]]] = {
    "paired rules": ("docs/hardening.md", None, rules("paired")),
    "compensated rules": ("docs/hardening.md", None, rules("plan", "COMPENSATED_RULES")),
    "in-path rules": ("docs/hardening.md", None, rules("in_path")),
    "harden": ("docs/hardening.md", "zoo_harden", harden_table),
    "tiling": ("docs/hardening.md", "zoo_harden", tiling_table),
    "latency": ("docs/hardening.md", "zoo_latency", latency_table),
    "latency goals": ("docs/hardening.md", "zoo_latency", goals_sentence),
    "latency of nodes": ("docs/hardening.md", "zoo_latency", node_time_table),
    "native op": ("docs/native.md", "op_latency", native_table),
    "native parity": ("docs/native.md", "zoo_latency", parity_sentence),
    "gpu check": ("docs/native.md", "gpu_check", gpu_tables.gpu_table),
    "sealing": ("docs/box.md", "sealing", sealing_table),
    "undo": ("docs/hardening.md", "feature_undo", undo_table),
    "key gate attacks": ("docs/key-gate.md", "key_gate_hardness", key_gate_tables.attacks_table),
    "key gate costs": ("docs/key-gate.md", "key_gate", key_gate_tables.costs_text),
    "service timing": ("docs/key-gate.md", "service_timing", service_tables.timing_table),
    "strip": ("docs/threat-model.md", "zoo_harden", strip_sentence),
    "recipes": ("docs/attacks.md", None, red_team_tables.recipes_table),
    "students": ("docs/attacks.md", None, red_team_tables.students_table),
    "defences": ("docs/attacks.md", None, red_team_tables.defences_table),
    "bound": ("docs/threat-model.md", "output_bound", red_team_tables.bound_sentence),
    "best responses": ("docs/threat-model.md", "red_team", scoreboards.best_responses),
    "core recipes": ("docs/threat-model.md", "red_team", scoreboards.core_drops),
    "every recipe": ("docs/threat-model.md", "red_team", scoreboards.every_recipe),
    "other defences": ("docs/threat-model.md", "red_team", scoreboards.other_defences),
    "strengths": ("docs/threat-model.md", "prior_defences", scoreboards.strengths),
    "headline": ("docs/threat-model.md", "red_team", scoreboards.headline),
    "plateau": ("docs/threat-model.md", "plateau", scoreboards.plateau_table),
    "plateau reached": ("docs/threat-model.md", "plateau", scoreboards.plateau_sentence),
    "key holders": ("docs/authorised.md", "red_team", authorised.holders_table),
    "thieves beside key holders": ("docs/authorised.md", "red_team", authorised.thieves_table),
    "key holders' goals": ("docs/authorised.md", "red_team", authorised.goals),
    "published box": ("docs/published-box.md", "prior_defences", published_box.answers_table),
    "published box's students": ("docs/published-box.md", "red_team", published_box.students_table),
    "headline goal": ("docs/threat-model.md", "red_team", scoreboards.headline_goal),
}
"""Per part: the document it stands in, the benchmark it comes from (None: the code itself), what makes it."""


def part(name: str, results: Path = RESULTS) -> str:
    """One part, or a line that says how to record it."""
    _, benchmark, build = PARTS[name]
    if benchmark is None:
        return build([])
    folder = results / benchmark
    if folder.is_dir():
        files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        # A file is one row, or holds several.
        return build([row for content in files for row in content.get("results", [content])])
    source = results / f"{benchmark}.json"
    if not source.is_file():
        return f"Not recorded yet: `python benchmarks/{benchmark}.py > benchmarks/results/{benchmark}.json`."
    content = json.loads(source.read_text())
    return build(content.get("results", [content]))


def filled(text: str, name: str, content: str) -> str:
    """A document with one part replaced.

    Raises:
        ValueError: the document has no such markers, or has them twice.
    """
    start, end = f"<!-- generated: {name} -->", "<!-- /generated -->"
    pattern = re.compile(f"{re.escape(start)}\n.*?{re.escape(end)}", re.DOTALL)
    text, found = pattern.subn(lambda _: f"{start}\n{content}\n{end}", text)
    if found != 1:
        raise ValueError(f"{found} places are marked {start}, where there must be one")
    return text


def main() -> None:
    for name, (document, _, _) in PARTS.items():
        content = part(name)
        print(f"{document}, {name}:\n{content}\n")
        if "--write" in sys.argv[1:]:
            path = ROOT / document
            path.write_text(filled(path.read_text(), name, content))


if __name__ == "__main__":
    main()
