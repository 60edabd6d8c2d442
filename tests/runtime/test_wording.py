"""What is printed of figures: counts, losses that are gains, shapes with free axes."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from kdguard.export.errors import UserError
from kdguard.export.model_card import describe_shape, infer_card
from kdguard.graph_passes.layers import find_layers
from kdguard.runtime.manifest import Coverage, Manifest
from kdguard.runtime.red_team.table import best_response_line
from kdguard.runtime.report.summary import conclude
from kdguard.runtime.tables import describe_manifest, fidelity_table
from kdguard.runtime.wording import change, closeness, counted, last_words, misleading_taps
from tests.conftest import make_conv_net, make_model
from tests.runtime.report.made_up import entry, fidelity, manifest, scoreboard, strip


def told(made: Manifest) -> str:
    return "\n".join(line for line, _ in describe_manifest(made))


def test_last_words() -> None:
    assert last_words("one\n\n two \nthree\nfour\n") == "two / three / four"
    assert len(last_words("x" * 9000)) == 600
    assert last_words(" \n") == ""


def test_losses_and_gains() -> None:
    assert [change(value) for value in (0.3, -0.03, -0.001, 0.0)] == [
        "loses 0.30 dB",
        "gains 0.03 dB",
        "loses 0.00 dB",
        "loses 0.00 dB",
    ]
    assert counted(1, "image") == "1 image"
    assert counted(0, "image") == "0 images"


def test_the_manifest_in_words() -> None:
    one = fidelity(-0.03).model_copy(update={"n": 1})
    text = told(manifest(fidelity=one, strip=strip(-0.03, -0.04), estimated_slowdown=1.123))
    assert "the hardened model gains 0.0300 dB on 1 image, " in text
    assert "an attacker who deletes our nodes gains 0.03 dB, and gains 0.04 dB after refitting on 4" in text
    assert "estimated time 1.12 of the clean model's: from a cost model, not timed" in text
    assert "-" not in text.split("gains 0.0300")[1].split("cost model")[0].replace("hardened", "")
    assert "deletes our nodes loses 2.00 dB" in told(manifest(strip=strip(2.0)))
    assert "estimated" not in told(manifest())


def test_nothing_to_cover_is_not_zero_of_zero() -> None:
    assert misleading_taps(1, 6) == "1 of 6 taps in the middle third of the network misleads"
    assert misleading_taps(0, 1) == "0 of 1 tap in the middle third of the network mislead"
    nothing = manifest(coverage=Coverage(perturbed=0, taps=0))
    assert "no tap in the middle third of the network could be perturbed" in told(nothing)
    assert "0 of 0" not in told(nothing)
    findings = conclude(fidelity(), scoreboard(entry("output-l1", "T0", 0.0, 0.1)), nothing).findings
    assert "T1 coverage: no tap in the middle third of the network could be perturbed." in findings


def test_gates_in_words() -> None:
    assert closeness(5.0) == "5.0 dB closer to the clean teacher than that is to the truth"
    far = fidelity(-0.2).model_copy(update={"worst_margin_db": -39.2, "n": 1})
    (failure,) = far.failures()
    assert "39.2 dB farther from the clean teacher than that is from the truth" in failure
    assert "-39.2" not in failure
    table = fidelity_table(far)
    assert "on 1 image (" in str(table.title)
    assert str(table.caption).startswith("gains 0.2000 dB (")
    assert "39.2 dB below the teacher's PSNR" in str(table.caption)


def test_a_better_student_is_not_a_negative_drop() -> None:
    board = scoreboard(entry("output-l1", "T0", -0.3, 0.1))
    assert best_response_line(board).endswith("gain 0.30 dB")
    findings = conclude(fidelity(-0.002), board, manifest()).findings
    assert any("gain 0.30 ± 0.10 dB over 3 seeds: hardening helps" in line for line in findings)
    assert findings[0].startswith("Teacher: gains 0.002 dB on 4 test images")


def test_free_axes_are_not_zero() -> None:
    assert describe_shape([0, 3, None, "w"]) == "[?, 3, ?, w]"
    relu = [helper.make_node("Relu", ["image"], ["restored"])]
    with pytest.raises(UserError, match=r"image \[\?, 4, \?, \?\]"):
        infer_card(make_model(relu, {}, shape=("n", 4, "h", "w")), "deraining")
    with pytest.raises(UserError, match=r"image \[\?, 10\]"):
        infer_card(make_model(relu, {}, shape=("n", 10)), "deraining")
    model = make_conv_net()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Unknown", "elsewhere"
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [0, 0, 0, 0]))
    (layer,) = (layer for layer in find_layers(model) if layer.name == "a")
    assert layer.shape == (None,) * 4
