"""What a key gate costs on the models that benchmarks/zoo_harden.py left: time, bytes, and whether a bit changes.

    python benchmarks/key_gate.py [TASK...] > benchmarks/results/key_gate.json

Each model runs on a piece of its first published test image (what a gate costs does not grow with the image, and what
a shut hint costs neither, so that large ones would hide it), by the functions in the file: as it is, with a gate for 64
holders, with that gate and a hint (the first hardened layer, rank 4), with both and a self-ensemble of four views,
without key, and with one. Sessions take turns;
a ratio is the median over rounds of one session's time over that of the ungated one in the same round. `again` is a
second session of the ungated model: how far its ratio lies from 1 is what this measurement cannot tell.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import numpy as np
import onnx
import zoo
from output import write_results

from kdguard.export.image_tensor import Tensor, image_to_tensor
from kdguard.export.model_card import KEY_INPUT, ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import Image
from kdguard.graph_passes.insert_key_gate import MAX_HOLDERS, gate_model
from kdguard.graph_passes.insert_view_ensemble import InsertViewEnsemble
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.key_gate import (
    ENSEMBLE_OUTPUT,
    HINT_PREFIX,
    SPREAD_OUTPUT,
    key_tensor,
    new_gate_secret,
    read_gate,
)
from kdguard.graph_passes.key_gate.views import MIRRORED_SIDES
from kdguard.runtime.inference import build_session
from kdguard.runtime.red_team.views import turn, turn_back
from kdguard.runtime.session import RestorationSession

SIDE, REPEATS, SECONDS = 256, 21, 12.0
"""Pixels; rounds per teacher: at least so many, and for so long."""


def measure(task: str) -> dict[str, object]:
    hardened, card = zoo.open_hardened(task)
    holders = [new_gate_secret() for _ in range(MAX_HOLDERS)]
    key = {KEY_INPUT: key_tensor(holders[-1])}
    layer = hardened_layers(hardened)[0].layer
    gated, hinted = gate_model(hardened, holders), gate_model(hardened, holders, [layer])
    axes = (1, 2) if card.layout == "NHWC" else (2, 3)
    ensembled = InsertViewEnsemble(list(MIRRORED_SIDES), spatial_axes=axes)(hinted).model
    by_function = {"card": card, "kernels": "function"}
    plain, again, shut = (RestorationSession(model, **by_function) for model in (hardened, hardened, gated))
    hints = RestorationSession(hinted, taps=[f"{HINT_PREFIX}{layer}"], **by_function)
    views = RestorationSession(ensembled, taps=[ENSEMBLE_OUTPUT, SPREAD_OUTPUT], **by_function)
    runs = {
        "ungated": (plain, {}),
        "again": (again, {}),
        "no_key": (shut, {}),
        "no_key_hint": (hints, {}),
        "no_key_ensemble": (views, {}),
        "right_key": (shut, key),
        "right_key_hint": (hints, key),
        "right_key_ensemble": (views, key),
    }
    image = zoo.test_pairs(task, card)[0].degraded[:SIDE, :SIDE]
    image = image[: len(image) // card.size_multiple * card.size_multiple]
    image = image[:, : image.shape[1] // card.size_multiple * card.size_multiple]
    tensor = image_to_tensor(image, card)
    answers = {name: session.run(tensor, further) for name, (session, further) in runs.items()}
    clean = RestorationSession(load_onnx(zoo.ZOO / task / "teacher.onnx"), card).run(tensor)[0]
    times: dict[str, list[float]] = {name: [] for name in runs}
    until = time.monotonic() + SECONDS
    while len(times["ungated"]) < REPEATS or time.monotonic() < until:
        for name, (session, further) in runs.items():
            started = time.perf_counter()
            session.run(tensor, further)
            times[name].append(time.perf_counter() - started)
    base = np.array(times["ungated"])
    everybody = answers["ungated"][0]
    return {
        "task": task,
        "input": list(tensor.shape),
        "rounds": len(base),
        "ungated_ms": round(1000 * statistics.median(base), 2),
        "ratios": {
            name: round(float(np.median(np.array(t) / base)), 4) for name, t in times.items() if name != "ungated"
        },
        "bytes_added": gated.ByteSize() - hardened.ByteSize(),
        "bytes_added_hint": hinted.ByteSize() - hardened.ByteSize(),
        "bytes_added_ensemble": ensembled.ByteSize() - hardened.ByteSize(),
        "bit_equal_without_key": all(
            np.array_equal(answers[name][0], everybody) for name in ("no_key", "no_key_hint", "no_key_ensemble")
        ),
        "layers": len(hardened_layers(hardened)),
        "layers_driven": len(read_gate(gated).driven),
        "from_clean_without_key": float(np.abs(everybody - clean).max()),
        "from_clean_with_key": float(np.abs(answers["right_key"][0] - clean).max()),
        "ensemble_from_one_by_one": ensemble_error(answers["right_key_ensemble"], shut, card, image, key),
        "hint": [list(answers[name][1].shape) for name in ("no_key_hint", "right_key_hint")],
    }


def ensemble_error(
    found: list[Tensor], session: RestorationSession, card: ModelCard, image: Image, key: dict[str, Tensor]
) -> float:
    """How far ensemble and spread lie from those of views that are asked one by one, at most, in the model's units."""
    channels = -1 if card.layout == "NHWC" else 0
    answers = []
    for view in MIRRORED_SIDES:
        answer = session.run(image_to_tensor(turn(image, view), card), key)[0][0]
        answers.append(turn_back(np.moveaxis(answer, channels, -1), view))
    mean, spread = (np.moveaxis(values[0], channels, -1) for values in found[1:])
    apart = np.abs(mean - np.mean(answers, 0)), np.abs(spread - np.std(answers, 0).mean(-1, keepdims=True))
    return float(max(values.max() for values in apart))


def gate_alone() -> float:
    """Median microseconds of the gate's node in a graph of its own, the call into onnxruntime included."""
    holders = [new_gate_secret() for _ in range(MAX_HOLDERS)]
    model = gate_model(zoo.open_hardened(zoo.tasks()[0])[0], holders)
    gate, wanted = model.graph.node[0], {*model.graph.node[0].input}
    graph = onnx.helper.make_graph(
        [gate],
        "gate",
        [value for value in model.graph.input if value.name in wanted],
        [onnx.helper.make_tensor_value_info(gate.output[0], onnx.TensorProto.FLOAT, [])],
        [tensor for tensor in model.graph.initializer if tensor.name in wanted],
    )
    alone = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, functions=model.functions, ir_version=model.ir_version
    )
    session = build_session(alone, "cpu", 0).session
    key, times = {KEY_INPUT: key_tensor(holders[0])}, []
    for _ in range(1000):
        started = time.perf_counter()
        session.run(None, key)
        times.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(times), 1)


def main() -> None:
    load = [round(value, 2) for value in os.getloadavg()]
    alone = gate_alone()
    rows = []
    for task in zoo.tasks(sys.argv[1:]):
        rows.append(measure(task) | {"gate_alone_us": alone, "load_average": load[0]})
        print(json.dumps(rows[-1]), file=sys.stderr)
    write_results(
        what="median of interleaved gated / ungated times, onnxruntime CPU, one process, default settings",
        results=rows,
    )


if __name__ == "__main__":
    main()
