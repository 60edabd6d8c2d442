"""The op's worst error against the NumPy reference over random maps.

    python benchmarks/op_error.py > benchmarks/results/op_error.json

Maps have 1 to 128 channels and 9 to 400 positions, rank 1 to 8, gains 0.5 to 100. Neighbouring
singular values differ by at least the stated gap where it matters, behind the k-th.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from kdguard.graph_passes.op import DOMAIN, VERSION, SvdPerturbAttributes, op_functions, reference

CASES = 1500
GAPS = (0.02, 1e-3, 1e-4)
GAINS = (0.5, 3.0, 10.0, 100.0)


def session(attributes: SvdPerturbAttributes, dtype: int) -> onnxruntime.InferenceSession:
    shape = ["n", "c", "h", "w"]
    common = {"domain": DOMAIN, **attributes.node_attributes()}
    graph = helper.make_graph(
        [
            helper.make_node("SvdPerturb", ["X"], ["Y", "U", "mean"], **common),
            helper.make_node("SvdRestore", ["Y", "U", "mean"], ["Z"], **common),
        ],
        "op",
        [helper.make_tensor_value_info("X", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, shape) for name in ("Y", "Z")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=op_functions(18), ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def random_map(rng: np.random.Generator, k: int, gap: float) -> np.ndarray:
    """[1, C, H, W] with log-spaced singular values over at most two decades, and the k-th gap set."""
    channels, height, width = int(rng.integers(1, 129)), int(rng.integers(3, 21)), int(rng.integers(3, 21))
    length = min(channels, height * width)
    values = np.sort(np.exp(-rng.uniform(0, 4.6, length)))[::-1].copy()
    if length > k:
        values[k:] *= values[k - 1] * (1 - gap) / values[k]
    left, _ = np.linalg.qr(rng.standard_normal((channels, length)))
    right, _ = np.linalg.qr(rng.standard_normal((height * width, length)))
    scaled = (left * values) @ right.T * np.sqrt(height * width) * 10 ** rng.uniform(-3, 2)
    return scaled.reshape(1, channels, height, width)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max() / np.abs(expected).max())


def main() -> None:
    rng = np.random.default_rng(0)
    results = []
    for gap in GAPS:
        for kind, dtype in ((np.float32, TensorProto.FLOAT), (np.float16, TensorProto.FLOAT16)):
            for gain in GAINS:
                worst = {"perturb": 0.0, "restore": 0.0}
                for case in range(CASES // len(GAINS) // len(GAPS)):
                    attributes = SvdPerturbAttributes(rank=case % 8 + 1, gain=gain)
                    X = np.clip(random_map(rng, attributes.rank, gap), -600, 600).astype(kind)
                    Y, Z = session(attributes, dtype).run(None, {"X": X})
                    worst["perturb"] = max(worst["perturb"], relative(Y, reference.svd_perturb(X, attributes).Y))
                    worst["restore"] = max(worst["restore"], relative(Z, X))
                results.append({"gap": gap, "type": np.dtype(kind).name, "gain": gain, **worst})
    json.dump(
        {
            "command": "python benchmarks/op_error.py > benchmarks/results/op_error.json",
            "what": "largest difference relative to the largest value; perturb against NumPy's SVD in float64, "
            "restore against the input",
            "cases_per_row": CASES // len(GAINS) // len(GAPS),
            "onnxruntime-gpu": version("onnxruntime-gpu"),
            "results": results,
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
