"""Models and images that many tests share. Everything is real: real graphs, real sessions, real photographs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as PilImage

from kdguard.export.model_card import ModelCard, write_card
from kdguard.export.onnx_files import save_onnx

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "examples" / "quickstart"
OPSET = 18


@pytest.fixture(scope="session", autouse=True)
def no_native_library(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests run the functions inside the files, whatever this machine has built; those of the library name theirs."""
    os.environ["KDGUARD_NATIVE"] = str(tmp_path_factory.mktemp("no-native-library"))


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of published teachers; tests that need it are skipped without it."""
    folder = Path(os.environ.get("KDGUARD_ZOO", ROOT.parent / "shared" / "zoo"))
    if not folder.is_dir():
        pytest.skip(f"no zoo of published teachers at {folder}; set KDGUARD_ZOO to run this")
    return folder


def make_model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    shape: tuple[object, ...] = ("n", 3, "h", "w"),
    output_shape: tuple[object, ...] | None = None,
    dtype: int = TensorProto.FLOAT,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A model from `image` to `restored`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("restored", dtype, output_shape or shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def conv_weights(seed: int, outputs: int, inputs: int, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((outputs, inputs, 3, 3)) / np.sqrt(9 * inputs)).astype(dtype)


def make_conv_net(width: int = 8, dtype: int = TensorProto.FLOAT, opset: int = OPSET) -> onnx.ModelProto:
    """image -> Conv a -> Relu b -> Conv c, added to b as d -> Conv tail, added to the image."""
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    weights = {
        "wa": conv_weights(0, width, 3, kind),
        "wc": conv_weights(1, width, width, kind),
        "wt": (conv_weights(2, 3, width) * 0.05).astype(kind),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["a"], "conv_a", **pads),
        helper.make_node("Relu", ["a"], ["b"], "relu_b"),
        helper.make_node("Conv", ["b", "wc"], ["c"], "conv_c", **pads),
        helper.make_node("Add", ["b", "c"], ["d"], "add_d"),
        helper.make_node("Conv", ["d", "wt"], ["tail"], "conv_tail", **pads),
        helper.make_node("Add", ["image", "tail"], ["restored"], "add_out"),
    ]
    return make_model(nodes, weights, dtype=dtype, opset=opset)


@pytest.fixture
def conv_net() -> onnx.ModelProto:
    return make_conv_net()


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(task="deraining", input_name="image", output_name="restored")


@pytest.fixture
def conv_net_file(conv_net: onnx.ModelProto, card: ModelCard, tmp_path: Path) -> Path:
    """A teacher file with a card."""
    write_card(conv_net, card)
    path = tmp_path / "teacher.onnx"
    save_onnx(conv_net, path)
    return path


def photograph(size: int = 48, offset: int = 0) -> np.ndarray:
    """A piece of a real photograph, [size, size, 3] uint8."""
    from skimage import data

    return data.astronaut()[offset : offset + size, 180 : 180 + size]


@pytest.fixture
def write_images() -> Callable[..., None]:
    """Write images under a folder: write_images(folder, name=pixels, ...)."""

    def write(folder: Path, **images: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pixels in images.items():
            PilImage.fromarray(pixels).save(folder / f"{name}.png")

    return write


@pytest.fixture
def write_noisy_pairs(write_images: Callable[..., None]) -> Callable[[Path, int], Path]:
    """Write a folder of so many pairs; the degraded image is the clean one with noise."""

    def write(folder: Path, count: int) -> Path:
        rng = np.random.default_rng(0)
        for index in range(count):
            clean = photograph(offset=40 * index)
            noisy = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
            write_images(folder / "clean", **{f"p{index}": clean})
            write_images(folder / "degraded", **{f"p{index}": noisy})
        return folder

    return write


@pytest.fixture
def pairs_folder(tmp_path: Path, write_noisy_pairs: Callable[[Path, int], Path]) -> Path:
    """Four pairs."""
    return write_noisy_pairs(tmp_path / "pairs", 4)


@pytest.fixture(scope="session")
def quickstart_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped teacher, exported once."""
    from kdguard.export.torch_export import export_teacher

    path = tmp_path_factory.mktemp("quickstart") / "teacher.onnx"
    export_teacher(
        "teacher:derain_edsr",
        QUICKSTART / "teacher.safetensors",
        path,
        task="deraining",
        search_path=QUICKSTART,
    )
    return path


def run_onnx(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))
