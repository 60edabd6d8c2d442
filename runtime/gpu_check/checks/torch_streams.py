"""The op on torch's tensors and on a stream of torch's, as a plugin would run it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdguard.graph_passes.op.reference import svd_perturb
from kdguard.runtime.gpu_check.checks.kernels import LIMITS
from kdguard.runtime.gpu_check.context import Context, cuda_torch
from kdguard.runtime.gpu_check.report import CheckResult, compared
from kdguard.runtime.gpu_check.subjects import PlainAttributes, feature_maps, worst

SHAPE = (2, 64, 60, 70)
NAME = "torch-streams"


def check(context: Context) -> Iterator[CheckResult]:
    """Compare where the map is made on the stream just before, and overwritten just after."""
    torch = cuda_torch()
    attributes = PlainAttributes(centred=True, coherence=3.0)
    for dtype in ("float32", "float16"):
        maps = feature_maps(SHAPE, np.dtype(dtype))
        host = torch.from_numpy(maps).pin_memory()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), context.library.prepared(attributes, SHAPE) as prepared:
            source = host.to("cuda", non_blocking=True)
            output, change = torch.empty_like(source), torch.empty_like(source, dtype=torch.float32)
            addresses = (source.data_ptr(), output.data_ptr(), change.data_ptr())
            context.library.queue_perturb(dtype, prepared, addresses, stream=stream.cuda_stream)
            source.zero_()
            stream.synchronize()
        error = worst(output.cpu().numpy(), svd_perturb(maps, attributes), SHAPE)
        yield compared(NAME, f"the op on a stream of torch's, {dtype}", error, LIMITS[dtype])
