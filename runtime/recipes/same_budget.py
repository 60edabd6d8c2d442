"""Control: ground truth and the clean teacher's outputs, the best that the same training gives without a defence."""

from __future__ import annotations

from kdguard.runtime.recipes.output_gt import OutputGt


class SameBudget(OutputGt):
    """As `output+gt`, always from the clean teacher; a thief of the hardened model cannot have it."""

    name = "same-budget"
    tier = "control"
    sources = ("clean",)
