"""Choosing layers and gains from calibration images, so that nobody has to name a tensor."""
