"""Runs engines with the vendor's package: a program of its own, because that package may end the process.

    python -P -m kdguard.runtime.engines.runner REQUEST.json

Questions come on standard input and answers go to standard output: a line of JSON, then arrays as safetensors.
Polygraphy takes either package, by an environment variable.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, NonNegativeInt
from safetensors import numpy as safetensors

Arrays = dict[str, NDArray[Any]]
Infer = Callable[[Arrays], Arrays]
Stopwatch = Callable[[Arrays], Callable[[], float]]
"""From inputs to what runs them once where they lie, and says how many seconds that took."""

WARM_UP = 3


class Request(BaseModel):
    """What to load."""

    package: str
    engines: list[Path]
    host_code_allowed: list[bool] = []


class Question(BaseModel):
    """One thing to do with the arrays that follow."""

    engine: int = 0
    rounds: int = 0
    """0 asks for outputs; more, for the seconds that all engines take by turns, so many times."""


class _Head(BaseModel, extra="allow"):
    """What goes before arrays: how many bytes they are, and what else there is to say."""

    size: NonNegativeInt


class Reply(BaseModel):
    """What came of it; the outputs' arrays follow."""

    refused: str = ""
    lacking: str = ""
    """On this machine."""
    seconds: list[list[float]] = []


def send(stream: BinaryIO, head: BaseModel, arrays: Mapping[str, NDArray[Any]]) -> None:
    """One line that says how many bytes of arrays follow, and those."""
    content = safetensors.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    stream.write(json.dumps(head.model_dump() | {"size": len(content)}).encode() + b"\n" + content)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], Arrays] | None:
    """What `send` sent; None where the other end is gone.

    Raises:
        ValueError: it is nothing that `send` sends.
        SafetensorError: likewise.
    """
    line = stream.readline()
    if not line:
        return None
    head = _Head.model_validate_json(line)
    content = stream.read(head.size)
    return (head.model_extra or {}, safetensors.load(content)) if len(content) == head.size else None


def serve(infer: Sequence[Infer], stopwatch: Sequence[Stopwatch], questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer until nobody asks any more."""
    while received := receive(questions):
        head, arrays = received
        question = Question.model_validate(head)
        reply, outputs = Reply(), Arrays()
        try:
            if question.rounds:
                reply = Reply(seconds=_by_turns(stopwatch, arrays, question.rounds))
            else:
                outputs = infer[question.engine](arrays)
        except Exception as error:  # of the vendor's, of any type
            reply = Reply(refused=str(error).strip() or type(error).__name__)
        send(replies, reply, outputs)


def _by_turns(stopwatch: Sequence[Stopwatch], arrays: Arrays, rounds: int) -> list[list[float]]:
    """Seconds [engine][round], after some runs that do not count."""
    watches = [watch(arrays) for watch in stopwatch]
    for _ in range(WARM_UP):
        for watch in watches:
            watch()
    turns = [[watch() for watch in watches] for _ in range(rounds)]
    return [list(times) for times in zip(*turns, strict=True)]


def open_engines(request: Request, stack: ExitStack) -> tuple[list[Infer], list[Stopwatch]]:
    """Load the engines onto the first GPU.

    Raises:
        RuntimeError: the vendor's library takes one of them not.
    """
    vendor = import_module(request.package)
    from polygraphy.backend.trt import TrtRunner

    logger = vendor.Logger(vendor.Logger.ERROR)
    runners = []
    for path, host_code_allowed in zip(request.engines, request.host_code_allowed, strict=True):
        runtime = vendor.Runtime(logger)
        runtime.engine_host_code_allowed = host_code_allowed
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RuntimeError(f"{path.name} cannot be loaded")
        runners.append(stack.enter_context(TrtRunner(engine)))
    return [_infer(runner) for runner in runners], [_stopwatch(runner) for runner in runners]


def _infer(runner: Any) -> Infer:
    return lambda arrays: {name: np.array(value) for name, value in runner.infer(arrays).items()}


def _stopwatch(runner: Any) -> Stopwatch:
    """Inputs are copied to the GPU once; outputs stay there. `infer` waits for the GPU."""

    def watch(arrays: Arrays) -> Callable[[], float]:
        from polygraphy.cuda import DeviceArray

        there = {name: DeviceArray(array.shape, array.dtype).copy_from(array) for name, array in arrays.items()}

        def once() -> float:
            started = time.perf_counter()
            runner.infer(there, copy_outputs_to_host=False)
            return time.perf_counter() - started

        return once

    return watch


def main() -> None:
    """Load what the request names and serve."""
    request = Request.model_validate_json(Path(sys.argv[1]).read_bytes())
    # What the vendor's library prints goes where logs go; the answers have the pipe for themselves.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if request.package == "tensorrt_rtx":
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when Polygraphy is imported
    with ExitStack() as stack:
        try:
            infer, stopwatch = open_engines(request, stack)
        except ImportError as error:
            send(replies, Reply(lacking=f"{error.name or error} is not there or not whole"), {})
            return
        except Exception as error:  # of the vendor's, of any type
            send(replies, Reply(refused=str(error).strip() or type(error).__name__), {})
            return
        send(replies, Reply(), {})
        serve(infer, stopwatch, sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
