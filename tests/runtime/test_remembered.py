"""A question that was heard before is answered from memory, and no other question is."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdguard.export.model_card import ModelCard
from kdguard.runtime.remembered import RememberedSession
from kdguard.runtime.session import RestorationSession
from tests.conftest import make_conv_net
from tests.runtime.image_pairs import noisy_pairs


class Counting(RestorationSession):
    """Counts how often the model runs."""

    runs = 0

    def run(self, *arguments: Any) -> list[np.ndarray]:
        self.runs += 1
        return super().run(*arguments)


def test_the_model_runs_once_for_every_image(card: ModelCard) -> None:
    session = Counting(make_conv_net(), card)
    remembered = RememberedSession(session)
    first, second = (pair.degraded for pair in noisy_pairs(2))
    answers = [remembered.restore(image) for image in (first, second, first.copy())]
    assert session.runs == 2
    np.testing.assert_array_equal(answers[2], answers[0])
    for answer, image in zip(answers, (first, second), strict=False):
        np.testing.assert_array_equal(answer, session.restore(image))


def test_equal_bytes_of_another_shape_are_another_image(card: ModelCard) -> None:
    remembered = RememberedSession(RestorationSession(make_conv_net(), card))
    image = noisy_pairs(1)[0].degraded
    assert [remembered.restore(asked).shape for asked in (image, image.reshape(24, 96, 3))] == [
        (48, 48, 3),
        (24, 96, 3),
    ]
