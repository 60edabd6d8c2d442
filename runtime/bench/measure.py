"""The whole bench: every provider, one after the other; within one, hardened and clean model take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import joblib

from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import sha256_of_model
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.bench.interleave import Timed, interleave
from kdguard.runtime.bench.op_alone import find_cases, measure_case
from kdguard.runtime.bench.op_share import measure_share, share_by_difference
from kdguard.runtime.bench.options import BenchOptions, ProviderName
from kdguard.runtime.bench.other_work import OtherWorkMeter
from kdguard.runtime.bench.peak_memory import measure_memory
from kdguard.runtime.bench.providers import default_providers, split_by_presence
from kdguard.runtime.bench.results import Bench, OpAlone, OpShare, ProviderBench, Ratio, Speed, Timing
from kdguard.runtime.bench.subject import Subject
from kdguard.runtime.engines.shapes import Size
from kdguard.runtime.report.environment import current_environment
from kdguard.runtime.session import RestorationSession
from kdguard.runtime.terminal import progress_bar, say

PROFILED_RUNS = 5
NO_DEVICE = "the CPU provider uses none"
NOT_MEASURED = "memory of the device is not measured"


@dataclass(frozen=True)
class OneImage:
    """A session and what it is asked; `run` includes the copies to a device and back."""

    name: str
    session: RestorationSession
    subject: Subject

    def run(self) -> object:
        """Restore the image."""
        return self.session.run(self.subject.tensor)


def bench(subject: Subject, options: BenchOptions) -> Bench:
    """Measure everything, and say which providers are lacking.

    Raises:
        MissingDependencyError: none of the providers runs here.
        UserError: a model does not run on the image.
    """
    names, lacking = split_by_presence(options.providers or default_providers())
    for name, reason in lacking.items():
        say(f"{name} is left out: {reason}", "yellow")
    meter = OtherWorkMeter()
    threads = options.threads or joblib.cpu_count(only_physical_cores=True)
    providers = [_bench_provider(subject, name, threads, options.rounds) for name in names]
    return Bench(
        teacher=str(subject.teacher),
        teacher_sha256=sha256_of_model(subject.teacher),
        hardened=str(subject.hardened),
        hardened_sha256=sha256_of_model(subject.hardened),
        size=list(subject.size),
        input_shape=list(subject.tensor.shape),
        rounds=options.rounds,
        threads=threads,
        providers=providers,
        lacking=lacking,
        other_work=meter.read(),
        environment=current_environment(),
    )


def time_models(subjects: Sequence[Timed], rounds: int, description: str) -> dict[str, list[float]]:
    """Seconds per run, in turns, under a progress bar."""
    with progress_bar(description, rounds) as advance:
        return interleave(subjects, rounds, advance=advance)


def _bench_provider(subject: Subject, name: ProviderName, threads: int, rounds: int) -> ProviderBench:
    clean, hardened = (
        RestorationSession(model, subject.card, provider=name, threads=threads) for model in subject.models
    )
    samples = time_models(
        [OneImage("clean", clean, subject), OneImage("hardened", hardened, subject)], rounds, f"timing on {name}"
    )
    slowdown = Ratio.of(samples["hardened"], samples["clean"])
    runs_on, kernels = hardened.provider, hardened.kernels
    del clean, hardened  # their memory is not to stand beside that of what follows
    op_alone, left_out = _bench_op(subject, name, threads, rounds)
    return ProviderBench(
        provider=name,
        runs_on=runs_on,
        kernels=kernels,
        clean=speed(samples["clean"], subject.card, subject.size),
        hardened=speed(samples["hardened"], subject.card, subject.size),
        slowdown=slowdown,
        memory=measure_memory(subject, name, threads),
        device_memory_reason=NO_DEVICE if name == "cpu" else NOT_MEASURED,
        op_share=_share(subject, name, threads, kernels, slowdown),
        op_alone=op_alone,
        op_not_measured=left_out,
    )


def speed(seconds: Sequence[float], card: ModelCard, size: Size) -> Speed:
    """What a model's samples say."""
    latency = Timing.of(seconds)
    images = 1000 * card.batch / latency.median_ms
    pixels = size.height * size.width
    return Speed(latency=latency, images_per_second=images, megapixels_per_second=images * pixels / 1e6)


def _share(subject: Subject, name: ProviderName, threads: int, kernels: str, slowdown: Ratio) -> OpShare | None:
    if kernels == "none":
        return None
    if kernels == "native":
        return measure_share(subject, name, threads, PROFILED_RUNS)
    return share_by_difference(slowdown)


def _bench_op(subject: Subject, name: ProviderName, threads: int, rounds: int) -> tuple[list[OpAlone], dict[str, str]]:
    """The op alone, on every distinct map."""
    hardened = subject.models[1]
    layers = hardened_layers(hardened)
    if not layers:
        return [], {}
    if name == "cuda" and not _torch_has_cuda():
        return [], {entry.layer: "this torch has no CUDA to compare with" for entry in layers}
    cases, left_out = find_cases(subject, name, threads)
    found = []
    with progress_bar(f"timing the op alone on {name}", len(cases)) as advance:
        for case in cases:
            found.append(measure_case(case, hardened, name, threads, rounds))
            advance()
    return found, left_out


def _torch_has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
