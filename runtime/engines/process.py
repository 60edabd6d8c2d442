"""The other end of `runner`: a child process that holds engines, and what is asked of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import SafetensorError

from kdguard.export.errors import MissingDependencyError, UserError, first_line
from kdguard.runtime.engines.runner import Arrays, Question, Reply, Request, receive, send
from kdguard.runtime.wording import last_words

COMMAND = (sys.executable, "-P", "-m", "kdguard.runtime.engines.runner")
PATIENCE_S = 10.0


class EngineProcess:
    """Engines of one vendor, loaded onto the GPU by a process of their own."""

    def __init__(self, request: Request, title: str, command: Sequence[str] = COMMAND) -> None:
        """Start it and wait until the engines are loaded.

        Args:
            title: of the vendor's package, for messages.
            command: the program.

        Raises:
            UserError: the vendor's library refuses an engine, or dies of it.
            MissingDependencyError: it is not whole.
        """
        self._title = title
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "request.json"
            path.write_text(request.model_dump_json())
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                [*command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
            )
            self._end = weakref.finalize(self, _end, self._process)
            self._reply()

    def infer(self, engine: int, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name.

        Raises:
            UserError: the engine fails on the inputs.
        """
        self._ask(Question(engine=engine), inputs)
        return self._reply()[1]

    def time(self, inputs: Mapping[str, NDArray[Any]], rounds: int) -> list[list[float]]:
        """Seconds [engine][round]: all engines by turns on the same inputs, which lie on the GPU.

        Raises:
            UserError: an engine fails on the inputs.
        """
        self._ask(Question(rounds=rounds), inputs)
        return self._reply()[0].seconds

    def close(self) -> None:
        """End the process."""
        self._end()

    def _ask(self, question: BaseModel, inputs: Mapping[str, NDArray[Any]]) -> None:
        assert self._process.stdin is not None
        try:
            send(cast("Any", self._process.stdin), question, inputs)
        except BrokenPipeError as error:
            raise self._died() from error

    def _reply(self) -> tuple[Reply, Arrays]:
        try:
            received = receive(cast("Any", self._process.stdout))
            reply = Reply.model_validate(received[0]) if received else None
        except (ValueError, SafetensorError) as error:
            raise UserError(
                f"{self._title} answered what kdguard does not understand; is it this version's?"
            ) from error
        if received is None or reply is None:
            raise self._died()
        if reply.lacking:
            raise MissingDependencyError(f"{self._title}: {reply.lacking}; install the vendor's package again")
        if reply.refused:
            raise UserError(f"{self._title} failed: {first_line(RuntimeError(reply.refused))}")
        return reply, received[1]

    def _died(self) -> UserError:
        code = _left(self._process)  # it may have shut the pipe and stayed
        self._log.seek(0)
        said = last_words(self._log.read().decode(errors="replace")) or "it said nothing"
        return UserError(f"{self._title} ended with {code} while it held the engine: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nobody asks any more; the program then leaves by itself, or is made to."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):  # it died with a question unread
                stream.close()
    _left(process)


def _left(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a program that leaves, or is made to."""
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
