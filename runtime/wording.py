"""Figures and counts in words, the same wherever they are printed."""

from __future__ import annotations


def number(value: float, digits: int = 2) -> str:
    """Fixed digits, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def plus_minus(value: float, half_width: float | None, digits: int = 2) -> str:
    """A mean with its 95 % half width, where there is one."""
    shown = number(value, digits)
    return shown if half_width is None else f"{shown} ± {number(half_width, digits)}"


def beside(gain_db: float, half_width: float | None) -> str:
    """`0.30 ± 0.10 dB above`; not told apart where the interval holds zero."""
    word = "below" if round(gain_db, 2) < 0 else "above"
    unsure = half_width is not None and abs(gain_db) <= half_width
    return f"{plus_minus(abs(gain_db), half_width)} dB {word}{' (not told apart from)' if unsure else ''}"


def counted(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def change(loss_db: float, digits: int = 2) -> str:
    """`loses 0.30 dB`; `gains 0.03 dB` where the loss is negative."""
    return f"{'gains' if round(loss_db, digits) < 0 else 'loses'} {number(abs(loss_db), digits)} dB"


def closeness(margin_db: float) -> str:
    """How far the hardened output lies from the clean one, by the clean one's own distance to the truth."""
    if round(margin_db, 1) < 0:
        return f"{-margin_db:.1f} dB farther from the clean teacher than that is from the truth"
    return f"{margin_db:.1f} dB closer to the clean teacher than that is to the truth"


def last_words(log: str) -> str:
    """The end of what a program printed, in one line; empty where it printed nothing."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:]


def converted(where: object, opset: int) -> str:
    """That a model was raised from an opset too old for the op."""
    return f"{where}: converted from opset {opset}, which the op does not know; same answers"


def misleading_taps(perturbed: int, taps: int) -> str:
    """How many taps of the middle third mislead."""
    if taps == 0:
        return "no tap in the middle third of the network could be perturbed"
    verb = "misleads" if perturbed == 1 else "mislead"
    return f"{perturbed} of {counted(taps, 'tap')} in the middle third of the network {verb}"
