"""What calibration images must leave of every gate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdguard.runtime.compensation.bench import Outcome
from kdguard.runtime.compensation.reserve import CHECK_SHARE, CHECK_SSIM, TRIAL_SHARE, TRIAL_SSIM, Reserve
from kdguard.runtime.fidelity import FidelityReport, Quality

GOOD = Outcome(
    excess=1.0, margin_db=18.5, worst_margin_db=13.0, between_db=54.5, loss_db=0.01, ssim_loss=0.0001, strip_db=5.0
)
RESERVE, RELATIVE = Reserve(0.1), Reserve(0.1, absolute=False)
EASY = FidelityReport(
    n=3, teacher=Quality(psnr=30, ssim=0.9), hardened=Quality(psnr=30, ssim=0.9), delta_psnr_db=0.0, delta_ssim=0.0,
    psnr_between_db=60.0, psnr_between_floor_db=46.0, worst_margin_db=30.0, budget_db=0.1, finite=True,
    max_abs_difference=0.01, within_budget=True, provider="CPUExecutionProvider", kernels="function",
)  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {"margin_db": 17.49},
        {"worst_margin_db": 11.99},
        {"loss_db": TRIAL_SHARE * 0.1 + 1e-6},
        {"ssim_loss": TRIAL_SSIM + 1e-6},
        {"margin_db": float("nan")},
        {"worst_margin_db": float("nan")},
    ],
)
def test_every_gate_can_refuse_a_gain(broken: dict[str, float]) -> None:
    for reserve in (RESERVE, RELATIVE):
        assert reserve.accepts(GOOD)
        assert not reserve.accepts(replace(GOOD, **broken))


def test_what_is_asked_in_any_case() -> None:
    """54.5 dB is enough where the teacher reaches 36 dB, not where it reaches 24."""
    strong, weak = GOOD, replace(GOOD, margin_db=30.5)
    assert [RESERVE.accepts(strong), RESERVE.accepts(weak), RELATIVE.accepts(weak)] == [True, False, True]
    low = replace(GOOD, between_db=50.0)
    assert [RESERVE.accepts(low), RELATIVE.accepts(low)] == [False, True]


def test_room_is_what_the_error_energy_may_grow() -> None:
    assert RELATIVE.on_trial(replace(GOOD, loss_db=-1.0, ssim_loss=0.0)) == pytest.approx(10**0.1)
    assert RELATIVE.on_trial(replace(GOOD, loss_db=0.05)) == pytest.approx(TRIAL_SHARE * 0.1 / 0.05)


@pytest.mark.parametrize(
    ("change", "room"),
    [
        ({}, 10 ** (13.5 / 10)),
        ({"psnr_between_db": 46.5}, 1.0),
        ({"psnr_between_db": 43.5}, 10**-0.3),
        ({"worst_margin_db": 10.5}, 1.0),
        ({"worst_margin_db": 7.5}, 10**-0.3),
        ({"delta_psnr_db": 0.1}, CHECK_SHARE),
        ({"delta_ssim": 2 * CHECK_SSIM}, 0.5),
        ({"delta_psnr_db": -3.0}, 10 ** (13.5 / 10)),
        ({"finite": False}, 0.01),
    ],
)
def test_room_on_the_last_check_is_that_of_the_tightest_gate(change: dict[str, object], room: float) -> None:
    assert RELATIVE.on_check(EASY.model_copy(update=change)) == pytest.approx(room)


def test_the_last_check_asks_for_as_much() -> None:
    assert RESERVE.on_check(EASY) == pytest.approx(10 ** (6.5 / 10))
    assert RESERVE.on_check(EASY.model_copy(update={"teacher": Quality(psnr=24, ssim=0.9)})) == pytest.approx(10**0.4)
