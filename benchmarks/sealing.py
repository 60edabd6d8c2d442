"""Throughput and memory of sealing and unlocking a teacher whose weights lie in a data file (Linux).

python benchmarks/sealing.py > benchmarks/results/sealing.json

The weights are random, and none of them is in the hardened model, so all of them go through the encryption. Each
measurement is a process of its own, pinned to one core; MB are 10^6 bytes. Beside it stand the two parts that every
byte goes through, SHA-256 and pyrage's encryption, in the same process.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from output import write_results

from kdguard.export.onnx_files import save_onnx
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.box.encryption import encrypt
from kdguard.runtime.box.keys import make_holder_key
from kdguard.runtime.box.seal import seal
from kdguard.runtime.box.unlock import unlock

MB = 10**6
SIZES_MB = (256, 1000)
ROUNDS = 3
CHUNK = 2**20


def write_model(path: Path, outside: int = 0) -> onnx.ModelProto:
    """One convolution, and a weight of so many bytes in a data file."""
    weight = numpy_helper.from_array(np.full((3, 3, 3, 3), outside, np.float32), "w")
    value = helper.make_tensor_value_info
    shape = ["n", 3, "h", "w"]
    nodes = [helper.make_node("Conv", ["image", "w"], ["a"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["a"], ["b"])]
    graph = helper.make_graph(
        nodes, "g", [value("image", TensorProto.FLOAT, shape)], [value("b", TensorProto.FLOAT, shape)], [weight]
    )
    if outside:
        tensor = graph.initializer.add(name="large", data_type=TensorProto.UINT8, dims=[outside])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        with (path.parent / "weights.bin").open("wb") as stream:
            for _ in range(outside // MB):
                stream.write(os.urandom(MB))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return model


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of them those on the processor: the rest went to other processes and the disk."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def measure(folder: Path, megabytes: int) -> dict[str, float]:
    """In this process, after a small one that imports everything: one sealing and one unlocking, then the parts."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    public = make_holder_key(folder / "key")
    hardened, box, out = folder / "h.onnx", folder / "h.box", folder / "out" / "t.onnx"
    seal(hardened, folder / "plain.onnx", box, [public])
    unlock(hardened, box, folder / "key", folder / "plain-again.onnx")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    works: dict[str, Callable[[], object]] = {
        "seal": lambda: seal(hardened, folder / "t.onnx", box, [public]),
        "unlock": lambda: unlock(hardened, box, folder / "key", out),
        "sha256": lambda: hash_file(folder / "weights.bin"),
        "encryption": lambda: encrypt_file(folder / "weights.bin", public),
    }
    measured = {}
    for name, work in works.items():
        clock, processor = timed(work)
        measured[f"{name}_mb_per_s"] = megabytes / clock
        measured[f"{name}_mb_per_cpu_s"] = megabytes / processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**measured, "rss_before_mib": before / 1024, "peak_rss_mib": peak / 1024}


def hash_file(path: Path) -> None:
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")


def encrypt_file(path: Path, public: str) -> None:
    def chunks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk

    with Path(os.devnull).open("wb") as output:
        encrypt(chunks(), output, [public])


def in_child(megabytes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        write_model(folder / "t.onnx", megabytes * MB)
        plain = write_model(folder / "plain.onnx")
        sites = InsertSvdPerturb(["a"], SvdPerturbAttributes(rank=2, gain=10.0), placement="paired")
        save_onnx(sites(plain).model, folder / "h.onnx")
        command = [sys.executable, __file__, "measure", name, str(megabytes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    load = os.getloadavg()
    results = []
    for megabytes in SIZES_MB:
        rounds = [in_child(megabytes) for _ in range(ROUNDS)]
        medians = {name: round(statistics.median(entry[name] for entry in rounds), 1) for name in rounds[0]}
        slowest = round(min(entry["seal_mb_per_s"] for entry in rounds), 1)
        results.append({"teacher_mb": megabytes, "slowest_seal_mb_per_s": slowest, **medians})
    write_results(
        what="medians of rounds, each a process of its own on one core, files in the temporary folder; by the clock, "
        "and by processor time, which other processes of a busy machine do not slow",
        rounds=ROUNDS,
        load_average_before=[round(value, 2) for value in load],
        load_average_after=[round(value, 2) for value in os.getloadavg()],
        results=results,
    )


if __name__ == "__main__":
    main()
