"""Serves ONNX files with onnxruntime where `kdguard.runtime.engines.runner` serves engines: no GPU is needed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from kdguard.runtime.engines.runner import Arrays, Infer, Reply, Request, Stopwatch, send, serve


def infer_with(session: onnxruntime.InferenceSession) -> Infer:
    names = [output.name for output in session.get_outputs()]

    def infer(arrays: Arrays) -> Arrays:
        if os.environ.get("DIE"):
            print("the vendor's last words", file=sys.stderr)
            os.abort()
        return dict(zip(names, session.run(names, arrays), strict=True))

    return infer


def stopwatch_of(infer: Infer) -> Stopwatch:
    def watch(arrays: Arrays) -> Callable[[], float]:
        def once() -> float:
            started = time.perf_counter()
            infer(arrays)
            return time.perf_counter() - started

        return once

    return watch


def main() -> None:
    request = Request.model_validate_json(Path(sys.argv[1]).read_bytes())
    infer = [infer_with(onnxruntime.InferenceSession(str(path))) for path in request.engines]
    send(sys.stdout.buffer, Reply(), {})
    serve(infer, [stopwatch_of(one) for one in infer], sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
