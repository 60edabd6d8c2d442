"""The key that a finished trial is kept under: all that its result depends on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdguard.runtime.red_team import code_hash
from tests.runtime.red_team.test_training import make_trial


@pytest.mark.parametrize(
    "setting",
    [{"batch": 4}, {"patch": 15}, {"family": "unet"}, {"size": "medium"}, {"steps": 31}, {"early_stopping": False}],
    ids=str,
)
def test_every_setting_of_the_training_counts(tmp_path: Path, setting: dict[str, object]) -> None:
    trial = make_trial(tmp_path)
    assert replace(trial, options=trial.options.model_copy(update=setting)).key != trial.key


@pytest.mark.parametrize("change", [{"task": "denoising"}, {"scale": 2}], ids=str)
def test_what_it_is_scored_by_counts(tmp_path: Path, change: dict[str, object]) -> None:
    trial = make_trial(tmp_path)
    assert replace(trial, **change).key != trial.key  # type: ignore[arg-type]


@pytest.fixture
def forget_code() -> Iterator[None]:
    yield
    code_hash.hash_code.cache_clear()


@pytest.mark.parametrize(
    ("recipe", "module"),
    [
        ("fitnets", "kdguard.runtime.recipes.fitnets"),
        ("fitnets-tuned", "kdguard.runtime.recipes.fitnets"),
        ("fitnets", "kdguard.runtime.recipes.terms"),
        ("fitnets", "kdguard.runtime.red_team.training"),
        ("fitnets", "kdguard.runtime.red_team.batches"),
        ("fitnets", "kdguard.runtime.red_team.trial"),
        ("fitnets", "kdguard.runtime.students.unet"),
        ("fitnets", "kdguard.runtime.metrics"),
        ("fitnets", "kdguard.export.tasks.deraining"),
    ],
)
def test_the_code_that_trains_and_scores_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget_code: None, recipe: str, module: str
) -> None:
    trial, source = make_trial(tmp_path, recipe=recipe), code_hash._source
    before = trial.key
    monkeypatch.setattr(code_hash, "_source", lambda name: source(name) + b"\n" * (name == module))
    code_hash.hash_code.cache_clear()
    assert replace(trial).key != before


def test_the_code_of_other_recipes_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget_code: None
) -> None:
    trial, source = make_trial(tmp_path, recipe="fitnets"), code_hash._source
    before = trial.key
    monkeypatch.setattr(code_hash, "_source", lambda name: source(name) + b"\n" * name.endswith((".fsp", ".recipes")))
    code_hash.hash_code.cache_clear()
    assert replace(trial).key == before


def test_torch_and_its_device_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_trial(tmp_path)
    keys = []
    for version, gpu in (("1.0", False), ("1.0", True), ("2.0", False)):
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        keys.append(replace(trial).key)
    assert len(set(keys)) == 3


def test_a_trial_takes_its_key_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on another machine writes it down under the key that it is looked for by."""
    trial = make_trial(tmp_path)
    key = trial.key
    monkeypatch.setattr(torch, "__version__", "0.0")
    # Copies are made as processes hand objects on: of what an object holds.
    received = copy.deepcopy(trial)
    assert received.key == key
    assert received == trial
