"""FitNets by an attacker who notices that features may mislead: he chooses their weight by validation."""

from __future__ import annotations

from kdguard.runtime.recipes.fitnets import FitNets


class FitNetsTuned(FitNets):
    """As `fitnets`, w from 0 (outputs only) to 1, whichever gives the best student on validation tiles."""

    name = "fitnets-tuned"
    tier = "T1s"
    source = "FitNets (arXiv 1412.6550) with its weight tuned"
    weights = (0.1, 1.0, 0.01, 0.0)
