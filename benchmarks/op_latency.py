"""The op's time over that of one 3x3 convolution of the same width on the same map: function and native kernels.

    python benchmarks/op_latency.py [--threads N] > benchmarks/results/op_latency.json

onnxruntime's CPU provider, rank 4, gain 10. Sessions take turns in one process and their threads do not spin, or else
those that wait would take the cores from the one that runs. What a session returns is one value, so that nobody
copies the map out. Builds the native library in a temporary folder; needs g++.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from output import write_results

from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.one_op import one_op_model
from kdguard.runtime.bench.interleave import Call, interleave
from kdguard.runtime.kernels.build import build_library

SHAPES = ((64, 256, 256), (64, 720, 1280), (32, 256, 256), (128, 128, 128), (256, 64, 64))
ROUNDS = 21


def convolution_model(channels: int) -> onnx.ModelProto:
    """X -> 3x3 convolution of the same width -> Y."""
    weights = np.random.default_rng(1).standard_normal((channels, channels, 3, 3)).astype(np.float32) / 20
    graph = helper.make_graph(
        [helper.make_node("Conv", ["X", "weights"], ["Y"], pads=[1, 1, 1, 1])],
        "convolution",
        [helper.make_tensor_value_info("X", 1, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("Y", 1, None)],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def op_model(channels: int, paired: bool) -> onnx.ModelProto:
    attributes = SvdPerturbAttributes(rank=4, gain=10.0, shared=paired)
    return one_op_model(attributes, channels=channels, restored=paired)


def session(model: onnx.ModelProto, last: str, threads: int, library: Path | None) -> onnxruntime.InferenceSession:
    """Of the model with the first value of one tensor as its only output."""
    constants = {"first": np.zeros(4, np.int64), "second": np.ones(4, np.int64)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.append(helper.make_node("Slice", [last, "first", "second"], ["value"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("value", 1, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feature_map(channels: int, height: int, width: int) -> np.ndarray:
    """Like one behind a ReLU: a large mean, some shared directions, and noise."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((channels, 8)).astype(np.float32)
    shared = directions @ rng.standard_normal((8, height * width), np.float32) + 3 * directions[:, :1]
    return np.maximum(shared, 0).reshape(1, channels, height, width)


def measure(shape: tuple[int, int, int], threads: int, library: Path) -> dict[str, object]:
    channels = shape[0]
    given = {
        "convolution": (convolution_model(channels), "Y", None),
        "in-path, function": (op_model(channels, paired=False), "Y", None),
        "in-path, native": (op_model(channels, paired=False), "Y", library),
        "paired, function": (op_model(channels, paired=True), "Z", None),
        "paired, native": (op_model(channels, paired=True), "Z", library),
    }
    sessions = {name: session(model, last, threads, lib) for name, (model, last, lib) in given.items()}
    feed = {"X": feature_map(*shape)}
    subjects = [Call(name, partial(asked.run, None, feed)) for name, asked in sessions.items()]
    times = interleave(subjects, ROUNDS)
    clean = np.array(times.pop("convolution"))
    ratios = {name: round(float(np.median(np.array(spent) / clean)), 3) for name, spent in times.items()}
    return {
        "channels, height, width": list(shape),
        "convolution_ms": round(1000 * statistics.median(clean), 2),
        "over_convolution": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        library = build_library(Path(folder) / "library.so")
        for shape in SHAPES:
            rows.append(measure(shape, threads, library))
            print(rows[-1], file=sys.stderr)
    write_results(what="medians of interleaved ratios, onnxruntime CPU, rank 4", threads=threads, results=rows)


if __name__ == "__main__":
    main()
