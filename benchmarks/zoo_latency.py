"""Hardened over clean time of the models that benchmarks/zoo_harden.py left: onnxruntime CPU, interleaved, medians.

    python benchmarks/zoo_latency.py [TASK...] > benchmarks/results/zoo_latency.json

Each teacher runs on its first published test image, whole. The hardened model runs by the functions in the file, and
by the native kernels, which are built in a temporary folder (g++); beside the ratios stands how far their outputs are
apart. By the functions also with the compensated node or the paired nodes alone taken out, to say what each costs; and
what the cost model, by which `kdguard harden` chooses layers, expects.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
import zoo
from output import write_results

from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.onnx_files import load_onnx
from kdguard.graph_passes.costs import count_costs, estimated_ratio
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb, Site
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.kernels.build import FOLDER_VARIABLE, build_library, library_path
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

REPEATS, SECONDS = 11, 40.0
"""Rounds per teacher: at least so many, and for so long."""


def only(teacher: onnx.ModelProto, hardened: onnx.ModelProto, placement: str) -> onnx.ModelProto | None:
    """The clean teacher with the hardened one's nodes of one placement."""
    sites = [
        Site(entry.layer, entry.op, "paired" if placement == "paired" else "in-path")
        for entry in hardened_layers(hardened)
        if entry.placement == placement
    ]
    return InsertSvdPerturb(sites=sites)(teacher).model if sites else None


def estimate(teacher: onnx.ModelProto, hardened: onnx.ModelProto, shape: Sequence[int]) -> dict[str, object]:
    """What the cost model expects at this input shape; nothing is timed.

    Returns:
        The ratio; the clean model's cost, in multiply-adds of convolution; how many paired layers there are, and how
        many values they hold.
    """
    shapes = {teacher.graph.input[0].name: shape}
    try:
        ratio = round(estimated_ratio(teacher, hardened, shapes), 4)
    except ValueError:  # shape inference finds no size for a hardened map, and `harden` estimates nothing either
        ratio = None
    costs = count_costs(teacher, shapes)
    paired = [entry.layer for entry in hardened_layers(hardened) if entry.placement == "paired"]
    return {
        "estimated_ratio": ratio,
        "estimated_clean_cost": round(costs.total),
        "paired_layers": len(paired),
        "paired_values": sum(prod(costs.shapes[layer]) for layer in paired),
    }


def measure(task: str) -> dict[str, object]:
    teacher, hardened = load_onnx(zoo.ZOO / task / "teacher.onnx"), load_onnx(zoo.HARDENED / f"{task}.onnx")
    card = resolve_card(hardened, task)
    models = {"clean": teacher, "hardened": hardened, "native": hardened}
    for placement in ("paired", "in-path"):
        if model := only(teacher, hardened, placement):
            models[placement] = model
    sessions = {
        name: RestorationSession(model, card, kernels="native" if name == "native" else "function")
        for name, model in models.items()
    }
    pair = zoo.test_pairs(task, card)[0]
    tensor = image_to_tensor(pair.degraded, card)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    answers = {name: session.run(tensor)[0] for name, session in sessions.items()}
    until = time.monotonic() + SECONDS
    while len(times["clean"]) < REPEATS or time.monotonic() < until:
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(tensor)
            times[name].append(time.perf_counter() - started)
    ratios = {name: statistics.median(np.array(values) / np.array(times["clean"])) for name, values in times.items()}
    return {
        "task": task,
        "input": list(tensor.shape),
        "rounds": len(times["clean"]),
        "clean_ms": round(1000 * statistics.median(times["clean"]), 2),
        "ratio": round(ratios["hardened"], 4),
        "ratio_native": round(ratios["native"], 4),
        "native_from_function": float(np.abs(answers["native"] - answers["hardened"]).max()),
        "ratio_paired_only": round(ratios["paired"], 4) if "paired" in ratios else None,
        "ratio_compensated_only": round(ratios["in-path"], 4) if "in-path" in ratios else None,
        **estimate(teacher, hardened, tensor.shape),
    }


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        build_library(library_path())
        for task in zoo.tasks(sys.argv[1:]):
            rows.append(measure(task))
            print(json.dumps(rows[-1]), file=sys.stderr)
    write_results(
        what="median of interleaved hardened / clean times, onnxruntime CPU, one process, default settings",
        results=rows,
    )


if __name__ == "__main__":
    main()
