"""Old opsets end to end: converted, compared, hardened, and said in the manifest."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from kdguard.export.errors import GateFailedError
from kdguard.export.model_card import CardOverrides
from kdguard.export.onnx_files import default_opset, load_onnx, save_onnx
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime import upgrade
from kdguard.runtime.harden import HardenOptions, harden
from kdguard.runtime.resolve_card import guess_card
from tests.conftest import make_conv_net
from tests.foreign_models import with_noise_level

OPTIONS = HardenOptions(["b", "d"], attributes=SvdPerturbAttributes(rank=2, gain=10.0))


@pytest.mark.parametrize("opset", range(9, 26))
def test_every_opset(opset: int, tmp_path: Path, pairs_folder: Path) -> None:
    save_onnx(make_conv_net(opset=opset), tmp_path / "t.onnx")
    manifest = harden(tmp_path / "t.onnx", tmp_path / "h.onnx", OPTIONS, task="denoising", data=pairs_folder)
    assert manifest.fidelity is not None
    assert manifest.fidelity.psnr_between_db > 100
    assert [entry.layer for entry in manifest.layers] == ["b", "d"]
    assert manifest.converted_from_opset == (opset if opset < 15 else None)
    assert default_opset(load_onnx(tmp_path / "h.onnx")) == (17 if opset < 15 else opset)


def test_without_a_task_it_is_converted_and_compared_too(tmp_path: Path) -> None:
    save_onnx(with_noise_level(make_conv_net(opset=12), [1]), tmp_path / "t.onnx")
    said = CardOverrides(extra_inputs={"level": (1.0,)})
    manifest = harden(tmp_path / "t.onnx", tmp_path / "h.onnx", OPTIONS, task="denoising", overrides=said)
    assert manifest.converted_from_opset == 12
    save_onnx(make_conv_net(opset=12, dtype=TensorProto.FLOAT16), tmp_path / "t16.onnx")
    assert harden(tmp_path / "t16.onnx", tmp_path / "h16.onnx", OPTIONS).converted_from_opset == 12


def test_a_conversion_that_changes_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
        return make_conv_net(opset=17) if where == "same" else _without_last_add(make_conv_net(opset=17))

    model = make_conv_net(opset=12)
    card = guess_card(model, None)
    monkeypatch.setattr(upgrade, "upgrade_opset", wrong)
    assert default_opset(upgrade.upgrade_checked(model, card, "same")) == 17
    with pytest.raises(GateFailedError, match="converter changes what the model does"):
        upgrade.upgrade_checked(model, card, "other")


def _without_last_add(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[-1].op_type = "Sub"
    return model
