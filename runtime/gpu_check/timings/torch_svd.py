"""The op over torch's own singular value decompositions of the same map on the same GPU."""

from __future__ import annotations

from collections.abc import Iterator

from kdguard.runtime.gpu_check.context import Context, cuda_torch
from kdguard.runtime.gpu_check.report import Timing
from kdguard.runtime.gpu_check.subjects import PlainAttributes
from kdguard.runtime.gpu_check.timings.clock import EventClock, medians

SHAPE, RANK, ROUNDS = (1, 64, 1080, 1920), 4, 7
NAME = "torch-svd"


def measure(context: Context) -> Iterator[Timing]:
    """Time the whole op against the decomposition alone, which does not even write a map."""
    torch = cuda_torch()
    library = context.library
    maps = torch.randn(SHAPE, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    matrix, output = maps.reshape(SHAPE[1], -1), torch.empty_like(maps)
    default = torch.cuda.default_stream()
    with (
        torch.cuda.stream(default),
        library.prepared(PlainAttributes(rank=RANK), SHAPE) as prepared,
        EventClock(library) as clock,
    ):
        addresses = (maps.data_ptr(), output.data_ptr(), None)
        works = {
            "op": lambda: library.queue_perturb("float32", prepared, addresses),
            "torch.linalg.svd": lambda: torch.linalg.svd(matrix, full_matrices=False),
            "torch.svd_lowrank": lambda: torch.svd_lowrank(matrix, q=RANK, niter=2),
        }
        taken = medians(works, clock.milliseconds, ROUNDS)
    ratios = {f"op / {name}": round(taken["op"] / taken[name], 5) for name in taken if name != "op"}
    yield Timing(NAME, f"rank {RANK} on {'x'.join(map(str, SHAPE[1:]))}, float32", "timed", taken, ratios, ROUNDS)
