"""The generated parts of docs/attacks.md and what docs/threat-model.md says about attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from table_text import between, table

from kdguard.runtime.defences import DEFENCES
from kdguard.runtime.recipes import RECIPES
from kdguard.runtime.students import SHAPES, build_student

Row = dict[str, Any]


def first_sentence(text: str | None) -> str:
    """Of a docstring."""
    words = " ".join((text or "").split())
    return words.split(". ")[0].removesuffix(".")


def recipes_table(_: Sequence[Row]) -> str:
    headings = ["recipe", "tier", "ground truth", "what it does", "source"]
    return table(
        headings,
        (
            [
                f"`{recipe.name}`",
                recipe.tier,
                "yes" if recipe.ground_truth else "",
                first_sentence(type(recipe).__doc__).replace("|", "\\|"),
                recipe.source,
            ]
            for recipe in RECIPES.values()
        ),
    )


def students_table(_: Sequence[Row]) -> str:
    rows = []
    for family, sizes in SHAPES.items():
        counts = [sum(p.numel() for p in build_student(family, size, 3, 1).parameters()) for size in sizes]
        rows.append([f"`{family}`", *(f"{count:,}" for count in counts)])
    return table(["parameters, of RGB students that do not enlarge", *(f"`{size}`" for size in SHAPES["unet"])], rows)


def defences_table(_: Sequence[Row]) -> str:
    rows = ([f"`{d.name}`", first_sentence(type(d).__doc__), d.unit, d.source] for d in DEFENCES.values())
    return table(["defence", "what it does", "strength", "source"], rows)


def bound_sentence(rows: Sequence[Row]) -> str:
    """What the experiment with linear students found."""
    seen = [row["students_rms"] / row["teachers_rms"] for row in rows]
    drops = [row["drop_db"] for row in rows]
    bounds = [row["bound_db"] for row in rows]
    teachers = len({row["task"] for row in rows})
    models = len({row["model"] for row in rows})
    shares = [drop / bound for drop, bound in zip(drops, bounds, strict=True) if bound > 1e-3]
    exceeded = sum(drop > bound + 1e-3 for drop, bound in zip(drops, bounds, strict=True))
    return (
        f"Linear students ({rows[0]['taps']} x {rows[0]['taps']} filters, least squares) of {teachers} published "
        f"teachers, each against {models} defended versions: on the inputs they were fitted to, the students lie "
        f"{between(seen)} times as far apart as their teachers. On published test images they drop "
        f"{between(drops)} dB, mean over the images; {exceeded} of {len(rows)} exceed the bound, and the largest drop "
        f"is {max(shares):.0%} of its bound (`benchmarks/results/output_bound.json`)."
    )
