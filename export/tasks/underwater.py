"""Underwater restoration: scored on RGB; needs the user's own pairs."""

from kdguard.export.tasks.base import PairsOnlyTask


class Underwater(PairsOnlyTask):
    """Underwater restoration, scored on RGB without a border crop."""

    name = "underwater"
