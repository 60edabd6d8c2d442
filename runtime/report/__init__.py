"""The report: a verdict that a release manager can act on, and the evidence for it."""
