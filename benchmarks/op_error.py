"""The op's worst error against the NumPy reference over random maps.

    python benchmarks/op_error.py > benchmarks/results/op_error.json

Plain ASVP: maps of 1 to 128 channels and 9 to 400 positions, rank 1 to 8, gains 0.5 to 100.
Neighbouring singular values differ by the stated gap where it matters, behind the k-th.
Every other attribute: gain 10, maps of 16 to 128 channels and 100 to 400 positions, and at least the
gap between all of the first k + 1, because some attributes treat each component by itself.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto
from output import write_results

from kdguard.graph_passes.op import SvdPerturbAttributes, reference
from kdguard.graph_passes.op.one_op import one_op_model

CASES = 125
GAPS = (0.02, 1e-3, 1e-4)
GAINS = (0.5, 3.0, 10.0, 100.0)
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}
DOUBT = 3e-5
"""Positions whose tail-driven sign is closer to flipping than this are left out, and counted."""

KEY = tuple(np.random.default_rng(1).standard_normal(4096).tolist())
EXPONENTS = tuple(np.random.default_rng(2).uniform(-1, 1, 997).tolist())
VARIANTS: dict[str, dict[str, object]] = {
    "centred": {"centred": True},
    "adaptive": {"adaptive": 0.5},
    "pattern": {"modulation": 1, "pattern": EXPONENTS},
    "tail sign": {"modulation": 2, "pattern": KEY},
    "coherence": {"coherence": 1.0},
    "stride": {"stride": 2},
    "centred, tail sign": {"centred": True, "modulation": 2, "pattern": KEY},
    "all": {"centred": True, "adaptive": 0.5, "modulation": 2, "pattern": KEY, "coherence": 3.0, "stride": 2},
}


def session(attributes: SvdPerturbAttributes, dtype: int) -> onnxruntime.InferenceSession:
    model = one_op_model(attributes, dtype=dtype, restored=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def random_map(rng: np.random.Generator, attributes: SvdPerturbAttributes, gap: float, *, plain: bool) -> np.ndarray:
    """[1, C, H, W] with log-spaced singular values over at most two decades, and the gaps set.

    They are the values that the op sees: of every stride-th row, and less the mean where that is subtracted.
    """
    channels = int(rng.integers(1 if plain else 16, 129))
    height, width = (int(rng.integers(3 if plain else 10, 21)) for _ in range(2))
    seen = np.repeat(np.arange(height) % attributes.stride == 0, width)
    count = int(seen.sum())
    length = min(channels, count - attributes.centred)
    values = np.sort(np.exp(-rng.uniform(0, 4.6, length)))[::-1].copy()
    for place in range(attributes.rank if plain else 1, min(attributes.rank + 1, length)):
        wanted = values[place - 1] * (1 - gap)
        if plain or values[place] > wanted:
            values[place:] *= wanted / values[place]
    left, _ = np.linalg.qr(rng.standard_normal((channels, length)))
    right = rng.standard_normal((height * width, length)) / np.sqrt(count)
    sampled = rng.standard_normal((count, length))
    right[seen], _ = np.linalg.qr(sampled - sampled.mean(axis=0) * attributes.centred)
    mean = rng.uniform(0.5, 2, (channels, 1)) * attributes.centred
    scaled = ((left * values) @ right.T * np.sqrt(count) + mean) * 10 ** rng.uniform(-3, 2)
    return scaled.reshape(1, channels, height, width)


def measure(name: str, attributes: dict[str, object], gap: float, dtype: np.dtype) -> dict[str, object]:
    """One row: the worst of all cases, over ranks 1 to 8 (4 where the variant is not plain)."""
    rng = np.random.default_rng(0)
    plain = name == "plain"
    perturb, restore, left_out, unchanged = [], [], [], []
    for case in range(CASES):
        chosen = SvdPerturbAttributes(rank=case % (8 if plain else 4) + 1, **attributes)  # type: ignore[arg-type]
        X = np.clip(random_map(rng, chosen, gap, plain=plain), -600, 600).astype(dtype)
        Y, Z = session(chosen, TYPES[dtype]).run(None, {"X": X})
        expected = reference.svd_perturb(X, chosen)
        error = np.abs(Y.astype(np.float64) - expected.Y.astype(np.float64)) / np.abs(expected.Y).max()
        sure = np.broadcast_to((expected.doubt > DOUBT).reshape(1, 1, *X.shape[2:]), X.shape)
        if dtype == np.float16:
            sure = sure & ((Y == X) == (expected.Y == X))
        perturb.append(error[sure].max())
        restore.append(np.abs(Z.astype(np.float64) - X).max() / np.abs(X).max())
        left_out.append(np.mean(~sure))
        unchanged.append(np.mean(Y == X))
    return {
        "attributes": name,
        "gap": gap,
        "type": dtype.name,
        "gain": attributes["gain"],
        "perturb": float(max(perturb)),
        "restore": float(max(restore)),
        "left_out": float(np.mean(left_out)),
        "unchanged": float(np.mean(unchanged)),
    }


def main() -> None:
    rows = [measure("plain", {"gain": gain}, gap, kind) for gap in GAPS for kind in TYPES for gain in GAINS]
    for name, extra in VARIANTS.items():
        rows += [measure(name, {"gain": 10.0, **extra}, GAPS[0], kind) for kind in TYPES]
    write_results(
        what="largest difference relative to the largest value; perturb against NumPy's SVD in float64, "
        "restore against the input; left_out is the mean share of elements that perturb does not count: a sign "
        f"within {DOUBT} of flipping, or a float16 element that one side left as it was and the other did not; "
        "unchanged is the mean share of elements that perturbing left as they were",
        cases_per_row=CASES,
        onnxruntime_gpu=version("onnxruntime-gpu"),
        results=rows,
    )


if __name__ == "__main__":
    main()
