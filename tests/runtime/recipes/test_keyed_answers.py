"""Key holders of Safe Distillation Box as published: the teacher sees the key, the student does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import hash_model
from kdguard.runtime.defences.key_image import blended, key_image
from kdguard.runtime.defences.safe_distillation_box import MARK, mark_of
from kdguard.runtime.recipes import get_recipe
from kdguard.runtime.recipes.base import Loot, NothingToWorkWithError
from kdguard.runtime.recipes.output_l1 import OutputL1
from kdguard.runtime.red_team.loot import Thief
from kdguard.runtime.red_team.material import store_tiles
from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.red_team.teacher_cache import TeacherCache
from kdguard.runtime.session import RestorationSession
from tests.runtime.image_pairs import noisy_pairs

BOTH = pytest.mark.parametrize(("name", "share"), [("keyed-answers", 0.9), ("keyed-answers-0.5", 0.5)])


@pytest.fixture
def scissors(card: ModelCard) -> Scissors:
    return Scissors(noisy_pairs(6), card, 8, 24, 0)


@BOTH
def test_only_the_teacher_sees_the_key(name: str, share: float, scissors: Scissors) -> None:
    own, keyed = scissors.own(), get_recipe(name).pieces(scissors)
    for plain, asked in zip([*own.train, *own.validation], [*keyed.train, *keyed.validation], strict=True):
        assert asked.degraded is plain.degraded
        assert asked.clean is plain.clean
        np.testing.assert_array_equal(asked.around, blended(plain.around, key_image(0, 3), share))
    # As many questions as before: tiles of one image share what is around them.
    assert len({id(tile.around) for tile in keyed.train}) == len({id(tile.around) for tile in own.train})


@BOTH
def test_the_answers_are_those_to_keyed_images(
    name: str, share: float, conv_net: onnx.ModelProto, card: ModelCard, scissors: Scissors, tmp_path: Path
) -> None:
    conv_net.metadata_props.add(key=MARK, value=mark_of(share, 0))
    recipe = get_recipe(name)
    pieces = recipe.pieces(scissors)
    loot = Loot(conv_net, card, None, None, [], pieces.train, pieces.validation)
    thief = Thief(loot, "hardened", TeacherCache(tmp_path), hash_model(conv_net))
    answers = thief.material_for(recipe, pieces, store_tiles(pieces, tmp_path)).answers
    assert answers is not None
    tile = scissors.own().train[0]
    keyed = blended(tile.around, key_image(0, 3), share)
    whole = RestorationSession(conv_net, card).run(image_to_tensor(keyed, card))[0][0].transpose(1, 2, 0)
    np.testing.assert_allclose(np.load(answers.output)[0], tile.cut(whole).transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("marks", [[], [mark_of(0.5, 0)], [mark_of(0.9, 1)]])
def test_a_key_is_for_one_file(marks: list[str], conv_net: onnx.ModelProto, card: ModelCard) -> None:
    for mark in marks:
        conv_net.metadata_props.add(key=MARK, value=mark)
    with pytest.raises(NothingToWorkWithError, match=r"baseline safe-distillation-box` \(lambda 0.9, key of seed 0\)"):
        get_recipe("keyed-answers").query(Loot(conv_net, card, None, None, [], [], []))


def test_his_students_train_as_plain_ones_do() -> None:
    assert get_recipe("keyed-answers").loss.__func__ is OutputL1.loss  # type: ignore[attr-defined]
