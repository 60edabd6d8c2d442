"""The bench as tables for the terminal, and as words that report and verdict share."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kdguard.runtime.bench.interleave import MIN_ROUNDS
from kdguard.runtime.bench.other_work import OtherWork
from kdguard.runtime.bench.results import BY_PROFILER, Bench, OpAlone, OpShare, ProviderBench, Ratio, Timing
from kdguard.runtime.wording import counted, number


def bench_tables(bench: Bench) -> list[Table]:
    """Both models on every provider, and the op alone where anything is hardened."""
    tables = [_speed_table(bench)]
    return [*tables, _op_table(bench)] if any(found.op_alone for found in bench.providers) else tables


def _speed_table(bench: Bench) -> Table:
    """Latency, throughput and memory of both models on every provider."""
    height, width = bench.size
    table = Table(
        title=f"Images of {height}x{width}, {counted(bench.rounds, 'round')}, {counted(bench.threads, 'thread')}",
        caption=Text.assemble(
            f"{_medians(bench)}; MiB: peak memory of a fresh process above that of its imports; op share: of "
            "the hardened model's time",
            *((f"\n{warning}", "yellow") for warning in busy_words(bench.other_work)),
        ),
    )
    headings = ("provider", "model", "ms", "images/s", "megapixels/s", "MiB", "hardened / clean", "op share")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for found in bench.providers:
        for model, speed, memory in (
            ("clean", found.clean, found.memory.clean_mib if found.memory else None),
            ("hardened", found.hardened, found.memory.hardened_mib if found.memory else None),
        ):
            table.add_row(
                runs_on(found) if model == "clean" else "",
                model,
                milliseconds(speed.latency),
                number(speed.images_per_second),
                number(speed.megapixels_per_second),
                "" if memory is None else number(memory, 0),
                ratio_words(found.slowdown) if model == "hardened" else "",
                share_words(found.op_share) if model == "hardened" else "",
            )
    return table


def _op_table(bench: Bench) -> Table:
    """The op alone against copy and SVD."""
    table = Table(
        title="The op alone, on the maps of this image",
        caption="copy of the map: numpy.copyto, one thread (on a GPU torch's); svd, svd_lowrank: torch's, then the "
        f"same change, by one thread or all, whichever is faster; {_medians(bench)}",
    )
    headings = ("provider", "layers", "map", "op, ms", "op / copy", "svd / op", "svd_lowrank / op")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:3] else "right", overflow="fold")
    for found in bench.providers:
        for case in found.op_alone:
            table.add_row(
                found.provider,
                escape(", ".join(case.layers)),
                map_words(case),
                milliseconds(case.op),
                ratio_words(case.op_over_copy),
                ratio_words(case.svd_over_op),
                ratio_words(case.svd_lowrank_over_op),
            )
    return table


def _medians(bench: Bench) -> str:
    return f"medians with 95 % intervals{'' if bench.rounds >= MIN_ROUNDS else f', from {MIN_ROUNDS} rounds on'}"


def runs_on(found: ProviderBench) -> str:
    """`CPUExecutionProvider, native kernels`."""
    return found.runs_on + (", native kernels" if found.kernels == "native" else "")


def map_words(case: OpAlone) -> str:
    """`32x256x256 float32, rank 4`."""
    return f"{'x'.join(map(str, case.shape[1:]))} {case.dtype}, rank {case.rank}"


def milliseconds(timing: Timing) -> str:
    """A median with its interval, in as many digits as it deserves."""
    digits = 3 if timing.median_ms < 1 else 2
    return _with_interval(timing.median_ms, timing.ci95_ms, digits)


def ratio_words(ratio: Ratio) -> str:
    """`1.12 (1.10 to 1.15)`."""
    return _with_interval(ratio.median, ratio.ci95, 2)


def share_words(share: OpShare | None) -> str:
    """`9 % by the profiler`; nothing where nothing is hardened."""
    if share is None:
        return ""
    return f"{number(100 * share.share, 0)} % by {'the profiler' if share.method == BY_PROFILER else 'difference'}"


def busy_words(other: OtherWork) -> list[str]:
    """A warning where the machine was busy with other work."""
    if other.busy is None or not other.much:
        return []
    return [
        f"other work kept {number(other.busy, 1)} of {counted(other.cores, 'core')} busy meanwhile: these figures may "
        "be off by more than their intervals; run it again on an idle machine"
    ]


def time_finding(bench: Bench) -> str:
    """One line of the verdict."""
    found = [f"{ratio_words(entry.slowdown)} on {runs_on(entry)}" for entry in bench.providers]
    height, width = bench.size
    busy = ", on a busy machine" if bench.other_work.much else ""
    return f"Time, hardened over clean: {'; '.join(found)}; images of {height}x{width}, medians in turns{busy}."


def _with_interval(median: float, interval: tuple[float, float] | None, digits: int) -> str:
    shown = number(median, digits)
    return f"{shown} ({number(interval[0], digits)} to {number(interval[1], digits)})" if interval else shown
