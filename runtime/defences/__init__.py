"""Defences from the literature, one file each, to compare ours with at the same loss."""

from __future__ import annotations

from kdguard.export.lookup import look_up
from kdguard.runtime.defences.base import Defence, Subject
from kdguard.runtime.defences.feature_noise import FeatureNoise
from kdguard.runtime.defences.literal_asvp import LiteralAsvp
from kdguard.runtime.defences.nasty_teacher import NastyTeacher
from kdguard.runtime.defences.output_noise import OutputNoise
from kdguard.runtime.defences.output_rounding import OutputRounding
from kdguard.runtime.defences.safe_distillation_box import HalfBlended, SafeDistillationBox
from kdguard.runtime.defences.uniform_scaling import UniformScaling

DEFENCES: dict[str, Defence] = {
    defence.name: defence
    for defence in (
        OutputNoise(),
        FeatureNoise(),
        UniformScaling(),
        OutputRounding(),
        NastyTeacher(),
        LiteralAsvp(),
        SafeDistillationBox(),
        HalfBlended(),
    )
}


def get_defence(name: str) -> Defence:
    """Look a defence up by its command-line name.

    Raises:
        UserError: no defence of that name; suggests the nearest.
    """
    return look_up(DEFENCES, name, "defence")


__all__ = ["DEFENCES", "Defence", "Subject", "get_defence"]
