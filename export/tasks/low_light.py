"""Low-light enhancement: scored on RGB; needs the user's own pairs."""

from kdguard.export.tasks.base import PairsOnlyTask


class LowLight(PairsOnlyTask):
    """Low-light enhancement, scored on RGB without a border crop."""

    name = "low-light"
