"""Two engines by turns: both in the process that holds them, inputs and outputs on the GPU."""

from __future__ import annotations

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import image_to_tensor
from kdguard.runtime.bench.measure import NOT_MEASURED, speed
from kdguard.runtime.bench.op_share import share_by_difference
from kdguard.runtime.bench.options import BenchOptions
from kdguard.runtime.bench.other_work import OtherWorkMeter
from kdguard.runtime.bench.results import Bench, ProviderBench, Ratio
from kdguard.runtime.bench.subject import choose_size, photograph
from kdguard.runtime.engines import ENGINES
from kdguard.runtime.engines.session import Engine, engine_inputs, start_engines
from kdguard.runtime.report.environment import current_environment
from kdguard.runtime.shipped import Shipped

INSIDE = "an engine holds the op where nobody can time it alone"


def both_engines(teacher: Shipped, hardened: Shipped) -> tuple[Engine, Engine]:
    """The two, of which one is an engine.

    Raises:
        UserError: the other is none, or their cards differ.
    """
    if not isinstance(hardened, Engine) or not isinstance(teacher, Engine):
        raise UserError(
            "an engine is timed against an engine: build one from the clean teacher with the same options, or give two "
            "ONNX files"
        )
    if teacher.manifest.card != hardened.manifest.card:
        raise UserError(
            f"{teacher.path} ({teacher.manifest.card.describe()}) and {hardened.path} "
            f"({hardened.manifest.card.describe()}) have different model cards; is this its teacher?"
        )
    return teacher, hardened


def bench_engines(teacher: Engine, hardened: Engine, options: BenchOptions) -> Bench:
    """Latency and throughput of both, by turns.

    Raises:
        MissingDependencyError: this machine cannot run them.
        UserError: the image has a size that they were not built for, or an engine fails on it.
    """
    card = hardened.manifest.card
    size = choose_size(options.size, card, "--size")
    tensor = image_to_tensor(photograph(size, card.channels), card)
    feed = engine_inputs(hardened.manifest, card, tensor, {})
    engine_inputs(teacher.manifest, card, tensor, {})
    meter = OtherWorkMeter()
    process = start_engines(teacher, hardened)
    clean, perturbed = process.time(feed, options.rounds)
    process.close()
    slowdown = Ratio.of(perturbed, clean)
    kind = ENGINES[hardened.manifest.kind]
    found = ProviderBench(
        provider=kind.name,
        runs_on=f"{kind.title} {hardened.manifest.vendor_version}, {hardened.manifest.precision}",
        kernels=hardened.manifest.op,
        clean=speed(clean, card, size),
        hardened=speed(perturbed, card, size),
        slowdown=slowdown,
        memory=None,
        device_memory_reason=NOT_MEASURED,
        op_share=share_by_difference(slowdown) if hardened.manifest.layers else None,
        op_alone=[],
        op_not_measured=dict.fromkeys(hardened.manifest.layers, INSIDE),
    )
    return Bench(
        teacher=str(teacher.path),
        teacher_sha256=teacher.manifest.engine_sha256,
        hardened=str(hardened.path),
        hardened_sha256=hardened.manifest.engine_sha256,
        size=list(size),
        input_shape=list(tensor.shape),
        rounds=options.rounds,
        threads=1,
        providers=[found],
        lacking={},
        other_work=meter.read(),
        environment=current_environment(),
    )
