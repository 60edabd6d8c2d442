"""Whether response times of the example service tell which keys exist.

Callers without a key, with a malformed one, an unknown one, one that is a bit off, and a revoked one: over loopback, in
rounds in which every class follows every other equally often (Williams, Aust. J. Sci. Res. 1949). Medians of the
differences within a round to an unknown key, with 95 % intervals; p of signed-rank tests of these, and of a Friedman
test of all keys that are well formed. Second samples of two classes show what chance does; calls with a right key
differ on purpose, and show that the tests see it.
"""

from __future__ import annotations

import importlib.util
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import uvicorn
from output import write_results
from PIL import Image as PilImage
from scipy import stats
from skimage import data

from kdguard.export.onnx_files import load_onnx, save_onnx
from kdguard.export.torch_export import export_teacher
from kdguard.graph_passes.insert_key_gate import gate_model
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.key_gate import GateSecret, new_gate_secret
from kdguard.graph_passes.op import SvdPerturbAttributes

ROOT = Path(__file__).parent.parent
ROUNDS, WARM_UP, HOLDERS = 1200, 40, 64
SIDE = 64
REFERENCE, RIGHT = "unknown", "right key"


def example() -> ModuleType:
    path = ROOT / "examples" / "service" / "app.py"
    spec = importlib.util.spec_from_file_location("kdguard_example_service", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def one_bit_off(key: GateSecret) -> GateSecret:
    return GateSecret(bytes([key.value[0] ^ 1, *key.value[1:]]))


def callers(holder: GateSecret) -> dict[str, str | None]:
    """What each class sends."""
    bearer, unknown = "Bearer ", new_gate_secret().value.hex()
    return {
        "no key": None,
        "no key again": None,
        "malformed": bearer + "zz",
        REFERENCE: bearer + unknown,
        f"{REFERENCE} again": bearer + unknown,
        "one bit off": bearer + one_bit_off(holder).value.hex(),
        "revoked": bearer + new_gate_secret().value.hex(),
        RIGHT: bearer + holder.value.hex(),
    }


def williams_rounds(count: int, classes: int, seed: int) -> np.ndarray:
    """Orders [count, classes] for an even number of classes: each follows each other one in one of `classes` rounds."""
    steps = np.array([(index + 1) // 2 * (-1) ** (index + 1) for index in range(classes)])
    square = (steps + np.arange(classes)[:, None]) % classes
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(square) for _ in range(count // classes)])


def measure(client: httpx.Client, path: str, sent: dict[str, str | None], seed: int) -> dict[str, object]:
    crop = data.astronaut()[:SIDE, :SIDE]
    out = io.BytesIO()
    PilImage.fromarray(crop).save(out, format="PNG")
    names = list(sent)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for done, order in enumerate(williams_rounds(WARM_UP + ROUNDS, len(names), seed)):
        for index in order:
            value = sent[names[index]]
            headers = {} if value is None else {"Authorization": value}
            started = time.perf_counter()
            client.post(path, content=out.getvalue(), headers=headers)
            if done >= WARM_UP:
                seconds[names[index]].append(time.perf_counter() - started)
    reference = np.array(seconds[REFERENCE])
    alike = [seconds[name] for name in (REFERENCE, f"{REFERENCE} again", "one bit off", "revoked")]
    rows: list[dict[str, object]] = []
    for name, values in seconds.items():
        row: dict[str, object] = {"caller": name, "median_ms": round(1000 * statistics.median(values), 3)}
        if name != REFERENCE:
            row |= {
                "difference_us": difference(values - reference),
                "p": figure(stats.wilcoxon(values, reference).pvalue),
            }
        rows.append(row)
    return {"path": path, "friedman_p_of_well_formed": figure(stats.friedmanchisquare(*alike).pvalue), "callers": rows}


def difference(seconds: np.ndarray) -> dict[str, float]:
    """The median and its 95 % interval, from order statistics: nothing is assumed of the distribution."""
    ordered = 1e6 * np.sort(seconds)
    low = int(stats.binom.ppf(0.025, len(ordered), 0.5))
    return {
        "median": round(float(np.median(ordered)), 1),
        "low": round(float(ordered[low - 1]), 1),
        "high": round(float(ordered[len(ordered) - low]), 1),
    }


def figure(p: float) -> float:
    """Four significant digits."""
    return float(f"{p:.4g}")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        teacher, gated = Path(scratch) / "teacher.onnx", Path(scratch) / "gated.onnx"
        quickstart = ROOT / "examples" / "quickstart"
        weights = quickstart / "teacher.safetensors"
        export_teacher("teacher:derain_edsr", weights, teacher, task="deraining", search_path=quickstart)
        hardened = InsertSvdPerturb(["add_104"], SvdPerturbAttributes(gain=40.0))(load_onnx(teacher)).model
        holders = [new_gate_secret() for _ in range(HOLDERS)]
        save_onnx(gate_model(hardened, holders, ["add_104"]), gated)
        server = uvicorn.Server(uvicorn.Config(example().create_app(gated), port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            sent = callers(holders[0])
            load = [round(value, 2) for value in os.getloadavg()]
            results = [measure(client, path, sent, seed) for seed, path in enumerate(("/hints", "/restore"))]
        server.should_exit = True
        thread.join(10)
    write_results(
        what="response times of callers of the example service, without a valid key and with one",
        rounds=ROUNDS,
        holders=HOLDERS,
        image=[SIDE, SIDE],
        load_average_before=load,
        load_average_after=[round(value, 2) for value in os.getloadavg()],
        results=results,
    )


if __name__ == "__main__":
    main()
