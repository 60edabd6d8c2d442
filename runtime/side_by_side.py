"""Asking several sessions the same questions; large models one after the other, so that one is held at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar


class Session(Protocol):
    """What can be asked by turns."""

    large: bool

    def release(self) -> None:
        """Give the memory of a large model back."""
        ...


Asked = TypeVar("Asked", bound=Session)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def side_by_side(
    sessions: Sequence[Asked], items: Sequence[Item], ask: Callable[[Asked, Item], Answer]
) -> Iterator[list[Answer]]:
    """For every item the answers of all sessions, in their order.

    Small models answer item by item, and nothing is kept. Of large ones each answers everything
    first and gives its memory back before the next one starts.
    """
    if not any(session.large for session in sessions):
        for item in items:
            yield [ask(session, item) for session in sessions]
        return
    answers = []
    for session in sessions:
        answers.append([ask(session, item) for item in items])
        session.release()
    yield from map(list, zip(*answers, strict=True))
