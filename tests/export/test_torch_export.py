"""Export: dynamic sizes, parity on photographs, the card inside, nothing private in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdguard.export.errors import GateFailedError, UserError
from kdguard.export.model_card import ModelCard, read_card
from kdguard.export.onnx_files import default_opset, load_onnx
from kdguard.export.parity import sample_images
from kdguard.export.torch_export import export_teacher
from kdguard.export.user_code import build_module
from tests.conftest import QUICKSTART, run_onnx


class Upscaler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))


class NotANetwork:
    pass


class FrozenSize(nn.Module):
    """Adds a constant of one size: cannot be exported with dynamic height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(1, 3, 96, 128)


def test_quickstart_teacher(quickstart_teacher: Path) -> None:
    model = load_onnx(quickstart_teacher)
    card = read_card(model)
    assert card is not None
    assert (card.task, card.layout, card.scale, card.value_range) == ("deraining", "NCHW", 1, (0.0, 1.0))
    assert default_opset(model) >= 18
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "height", "width"]

    teacher = build_module("teacher:derain_edsr", QUICKSTART)
    teacher.load_state_dict(load_file(QUICKSTART / "teacher.safetensors"))
    for batch, height, width in ((1, 40, 56), (3, 33, 31)):
        pair = sample_images("deraining", 3)[0][:height, :width].transpose(2, 0, 1)
        x = np.repeat(pair[None], batch, axis=0).copy()
        with torch.no_grad():
            expected = teacher(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run_onnx(model, image=x)[0], expected, atol=1e-5)


def test_file_holds_no_source_paths(quickstart_teacher: Path) -> None:
    content = quickstart_teacher.read_bytes()
    assert b"stack_trace" not in content
    assert str(QUICKSTART).encode() not in content
    assert b"site-packages" not in content


def test_scale_is_measured(tmp_path: Path) -> None:
    report = export_teacher(Upscaler(), None, tmp_path / "up.onnx", task="super-resolution")
    assert report.card.scale == 2
    assert report.max_abs_error < 1e-4


@pytest.mark.parametrize("difference", [2e-3, float("inf")])
def test_disagreement_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float) -> None:
    monkeypatch.setattr("kdguard.export.torch_export.measure_parity", lambda *_: (1, difference))
    with pytest.raises(GateFailedError, match="parity failed"):
        export_teacher(Upscaler(), None, tmp_path / "up.onnx", task="super-resolution")
    assert not list(tmp_path.iterdir())


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x - 100)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Evens(nn.Module):
    """Down by two and up again, added to the input: odd sizes do not fit."""

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), scale_factor=2.0)


class Grey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Nan(), "parity failed"),
        (Halves(), "one whole factor"),
        (Two(), "returns the restored image only"),
        (Evens(), "--size-multiple"),
        (Grey(), "--channels"),
    ],
)
def test_models_that_cannot_ship_say_why(tmp_path: Path, model: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        export_teacher(model, None, tmp_path / "x.onnx", task="deraining")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_size_multiple_and_grey_export(tmp_path: Path) -> None:
    card = ModelCard(task="deraining", input_name="image", output_name="restored", size_multiple=2)
    assert export_teacher(Evens(), None, tmp_path / "evens.onnx", card=card).card.size_multiple == 2
    grey = card.model_copy(update={"channels": 1, "size_multiple": 1})
    assert export_teacher(Grey(), None, tmp_path / "grey.onnx", card=grey).card.channels == 1


def test_model_that_cannot_be_dynamic(tmp_path: Path) -> None:
    with pytest.raises((UserError, GateFailedError)) as caught:
        export_teacher(FrozenSize(), None, tmp_path / "x.onnx", task="deraining")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no colon", "not of the form"),
        ("absent_module_of_ours:f", "cannot import"),
        ("math:absent", "no callable"),
        ("tests.export.test_torch_export:NotANetwork", "not a torch.nn.Module"),
    ],
)
def test_bad_sources(tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        export_teacher(source, None, tmp_path / "x.onnx", task="deraining")


def test_weights_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit the model"):
        export_teacher(Upscaler(), QUICKSTART / "teacher.safetensors", tmp_path / "x.onnx", task="super-resolution")


class HasModule(nn.Module):
    """Its own child is called module, like the wrapper's."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def test_data_parallel_checkpoints_fit_and_honest_names_stay(tmp_path: Path) -> None:
    plain, wrapped = Upscaler().state_dict(), {f"module.{k}": v for k, v in Upscaler().state_dict().items()}
    for name, state, model in (
        ("plain", plain, Upscaler()),
        ("wrapped", wrapped, Upscaler()),
        ("own", HasModule().state_dict(), HasModule()),
    ):
        save_file(state, tmp_path / f"{name}.safetensors")
        export_teacher(model, tmp_path / f"{name}.safetensors", tmp_path / f"{name}.onnx")
    weights = {t.name: numpy_helper.to_array(t) for t in load_onnx(tmp_path / "wrapped.onnx").graph.initializer}
    np.testing.assert_array_equal(weights["conv.weight"], wrapped["module.conv.weight"].numpy())
