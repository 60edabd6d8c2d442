"""Dehazing: scored on RGB; needs the user's own pairs."""

from kdguard.export.tasks.base import PairsOnlyTask


class Dehazing(PairsOnlyTask):
    """Dehazing, scored on RGB without a border crop."""

    name = "dehazing"
