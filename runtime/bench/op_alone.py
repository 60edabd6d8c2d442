"""One SvdPerturb node on a real map, against a plain copy of it and against torch's SVDs doing the same job.

The job: amplify the top singular values of [C, positions], everything else the op may do left out. Every subject reads
and writes memory of the provider's device that is there already, and is done when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kdguard.export.onnx_files import default_opset
from kdguard.graph_passes.inventory import HardenedLayer, hardened_layers
from kdguard.graph_passes.layers import FLOAT_TYPES, infer_value_infos
from kdguard.graph_passes.op.attributes import SvdPerturbAttributes
from kdguard.graph_passes.op.one_op import one_op_model
from kdguard.runtime.bench.interleave import Call, interleave
from kdguard.runtime.bench.options import ProviderName
from kdguard.runtime.bench.results import OpAlone, Ratio, Timing
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.inference import build_session
from kdguard.runtime.session import RestorationSession

if TYPE_CHECKING:
    import torch

OVERSAMPLING = 5
"""Columns that svd_lowrank finds beyond the rank: Halko, Martinsson and Tropp, arXiv 0909.4061, advise 5 or 10."""
SECONDS_PER_SUBJECT = 10.0
"""An SVD of a large map takes seconds; it then runs in a few rounds only, which its `n` tells."""
_TYPES = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


@dataclass(frozen=True)
class TimedSvd:
    """One of torch's SVDs by so many threads, against the op in the same turns."""

    threads: int
    timing: Timing
    over_op: Ratio


@dataclass(frozen=True)
class OpCase:
    """Hardened layers that take the same time: shape, type and attributes are equal but for gains and keys.

    Attributes:
        features: the first layer's clean map, in its own type.
        attributes: of its node.
    """

    layers: list[str]
    features: NDArray[np.floating]
    attributes: SvdPerturbAttributes


def find_cases(subject: Subject, provider: ProviderName, threads: int) -> tuple[list[OpCase], dict[str, str]]:
    """The distinct cases in graph order with maps of the subject's image, and why other layers are left out."""
    hardened = subject.models[1]
    layers = hardened_layers(hardened)
    producers = {name: node for node in hardened.graph.node for name in node.output}
    taps = [producers[entry.layer].input[0] for entry in layers]
    session = RestorationSession(hardened, subject.card, provider=provider, threads=threads, taps=taps)
    maps = session.run(subject.tensor)[1:]
    values = infer_value_infos(hardened)
    cases: dict[object, OpCase] = {}
    left_out = {}
    for entry, clean in zip(layers, maps, strict=True):
        dtype = FLOAT_TYPES[values[entry.layer].type.tensor_type.elem_type]
        if dtype not in _TYPES:
            left_out[entry.layer] = f"it is {dtype}, and NumPy has arrays of {' and '.join(_TYPES)} only"
            continue
        key = _what_decides_time(entry, clean.shape, dtype)
        if key in cases:
            cases[key].layers.append(entry.layer)
        else:
            cases[key] = OpCase([entry.layer], clean.astype(dtype), entry.op)
    return list(cases.values()), left_out


def _what_decides_time(entry: HardenedLayer, shape: tuple[int, ...], dtype: str) -> object:
    told_apart = entry.op.model_dump(exclude={"gain", "pattern"})
    return shape, dtype, tuple(told_apart.items()), len(entry.op.pattern)


def measure_case(case: OpCase, hardened: onnx.ModelProto, provider: ProviderName, threads: int, rounds: int) -> OpAlone:
    """Time one case; the op by the functions that the hardened model brings.

    SVDs by several threads take turns of their own: OpenMP's threads spin on when a run has ended, beside whatever
    comes next.
    """
    import torch

    device = torch.device(provider)
    operator, kernels = _operator(case, hardened, provider, threads)
    features = torch.from_numpy(case.features).to(device)
    jobs: dict[str, Callable[[], Any]] = {
        "op": operator,
        "svd": lambda: amplify_by_svd(features, case.attributes),
        "svd_lowrank": lambda: amplify_by_lowrank_svd(features, case.attributes),
    }
    samples = _by_turns({**jobs, "copy": _copier(case.features, device)}, 1, device, rounds)
    by_threads = {1: samples}
    if device.type == "cpu" and threads > 1:
        by_threads[threads] = _by_turns(jobs, threads, device, rounds)
    svd, svd_lowrank = (_faster(by_threads, name) for name in ("svd", "svd_lowrank"))
    with _torch_threads(1), torch.no_grad():
        error = _relative_error(jobs["svd_lowrank"](), jobs["svd"]())
    return OpAlone(
        layers=case.layers,
        shape=list(case.features.shape),
        dtype=case.features.dtype.name,
        rank=case.attributes.rank,
        kernels=kernels,
        op=Timing.of(samples["op"]),
        plain_copy=Timing.of(samples["copy"]),
        svd=svd.timing,
        svd_threads=svd.threads,
        svd_lowrank=svd_lowrank.timing,
        svd_lowrank_threads=svd_lowrank.threads,
        op_over_copy=Ratio.of(samples["op"], samples["copy"]),
        svd_over_op=svd.over_op,
        svd_lowrank_over_op=svd_lowrank.over_op,
        svd_lowrank_error=error,
    )


def _by_turns(
    jobs: Mapping[str, Callable[[], object]], threads: int, device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Seconds per run of each, torch held to so many threads."""
    import torch

    subjects = [Call(name, _finished(job, device)) for name, job in jobs.items()]
    with _torch_threads(threads), torch.no_grad():
        return interleave(subjects, rounds, seconds=SECONDS_PER_SUBJECT)


def _faster(by_threads: Mapping[int, Mapping[str, list[float]]], name: str) -> TimedSvd:
    """By the number of threads that serves it best.

    More threads help some maps. But they wait for each other, spinning, some thousand times per SVD: where one of them
    lacks a core, all take many times as long, and evenly so, which no interval tells.
    """
    ways = (
        TimedSvd(threads, Timing.of(samples[name]), Ratio.of(samples[name], samples["op"]))
        for threads, samples in by_threads.items()
    )
    return min(ways, key=lambda way: way.over_op.median)


def amplify_by_svd(features: torch.Tensor, attributes: SvdPerturbAttributes) -> torch.Tensor:
    """Plain ASVP of maps [N, C, spatial...] by `torch.linalg.svd`, float32 inside."""
    import torch

    flat, mean = _flat(features, attributes)
    U, S, Vh = torch.linalg.svd(flat - mean, full_matrices=False)
    k = attributes.rank
    change = (attributes.gain - 1) * (U[..., :k] * S[..., None, :k]) @ Vh[..., :k, :]
    return (flat + change).reshape(features.shape).to(features.dtype)


def amplify_by_lowrank_svd(features: torch.Tensor, attributes: SvdPerturbAttributes) -> torch.Tensor:
    """The same by `torch.svd_lowrank`, which is random, with five columns beyond the rank."""
    import torch

    flat, mean = _flat(features, attributes)
    k = attributes.rank
    U, S, V = torch.svd_lowrank(flat - mean, q=min(k + OVERSAMPLING, *flat.shape[1:]))
    change = (attributes.gain - 1) * (U[..., :k] * S[..., None, :k]) @ V[..., :k].mT
    return (flat + change).reshape(features.shape).to(features.dtype)


def _flat(features: torch.Tensor, attributes: SvdPerturbAttributes) -> tuple[torch.Tensor, torch.Tensor | float]:
    """[N, C, positions], and the mean over positions where the node subtracts it."""
    flat = features.float().flatten(2)
    return flat, flat.mean(dim=2, keepdim=True) if attributes.centred else 0.0


def _operator(
    case: OpCase, hardened: onnx.ModelProto, provider: ProviderName, threads: int
) -> tuple[Callable[[], object], str]:
    """One run of the node on the map, inputs and outputs bound to the provider's memory, and what runs it."""
    import onnxruntime

    model = one_op_model(
        case.attributes,
        rank=case.features.ndim,
        channels=case.features.shape[1],
        dtype=_TYPES[case.features.dtype.name],
        opset=default_opset(hardened),
        functions=hardened.functions,
    )
    session, kernels = build_session(model, provider, threads)
    binding = session.io_binding()
    binding.bind_ortvalue_input("X", onnxruntime.OrtValue.ortvalue_from_numpy(case.features, provider))
    for name, output in zip(("Y", "change"), session.run(None, {"X": case.features}), strict=True):
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(output, provider))

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run, kernels


def _copier(features: NDArray[np.floating], device: torch.device) -> Callable[[], object]:
    """A copy of the map into one that is there: numpy.copyto, which takes one thread, or torch's on the device.

    torch's copy by several threads waits at a barrier of OpenMP: on a busy machine it takes longer than the op.
    """
    import torch

    if device.type == "cpu":
        target = np.empty_like(features)
        return lambda: np.copyto(target, features)
    source = torch.from_numpy(features).to(device)
    there = torch.empty_like(source)
    return lambda: there.copy_(source)


def _finished(job: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The job, waited for: work on a GPU is only queued when torch returns."""
    import torch

    if device.type != "cuda":
        return job

    def run() -> None:
        job()
        torch.cuda.synchronize()

    return run


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest value; 0 where both are zero."""
    size = float(expected.float().abs().max())
    return float((found.float() - expected.float()).abs().max()) / size if size else 0.0
