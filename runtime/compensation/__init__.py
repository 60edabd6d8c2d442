"""Compensated placement: perturb one map in-path and refit the convolutions that read it, in closed form."""
