"""What of the plugin can be checked without TensorRT: its parser finds it, and its Python package accepts it.

TensorRT-RTX has TensorRT's parser. TensorRT's Python package comes as a wheel of its own; here it gets libraries that
do nothing, and numbers in place of the expressions that the library would evaluate.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from kdguard.runtime.engines.plugin import KERNEL, THREADS, shared_bytes
from kdguard.runtime.engines.plugin_nodes import divide
from tests.conftest import ROOT
from tests.runtime.engines.test_plugin_nodes import projectors

PARSE = """
import json, sys
import numpy as np
import tensorrt_rtx as vendor

class Creator(vendor.IPluginCreatorV3One):
    def __init__(self):
        vendor.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_namespace, self.plugin_version = "TopKProjector", "kdguard", "1"
        field = vendor.PluginField("rank", np.array([], np.int32), vendor.PluginFieldType.INT32)
        self.field_names = vendor.PluginFieldCollection([field])
        self.asked = []

    def create_plugin(self, name, fields, phase):
        self.asked.append({field.name: field.data.tolist() for field in fields})

logger = vendor.Logger(vendor.Logger.INTERNAL_ERROR)
creator = Creator()
assert vendor.get_plugin_registry().register_creator(creator, "kdguard")
network = vendor.Builder(logger).create_network(1 << int(vendor.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
vendor.OnnxParser(network, logger).parse(open(sys.argv[1], "rb").read())
print(json.dumps([creator.asked, network.num_layers]))
"""

LIBRARIES = {
    "libnvinfer.so.11": [
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ],
    "libnvinfer_plugin.so.11": ["initLibNvInferPlugins"],
    "libnvonnxparser.so.11": [
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ],
}

REGISTER = """
import json, os, sys
import numpy as np
sys.setdlopenflags(os.RTLD_LAZY)
import tensorrt_bindings as vendor
sys.modules["tensorrt"] = vendor
import tensorrt_bindings.plugin as api
sys.modules["tensorrt.plugin"] = api
from tensorrt_bindings.plugin import _lib, _tensor
from kdguard.runtime.engines import plugin

class Number:
    def __init__(self, value): self.value = value
    def is_constant(self): return True
    def get_constant_value(self): return self.value

class Evaluator:
    def constant(self, value): return Number(value)
    def operation(self, kind, a, b):
        do = {"SUM": lambda: a.value + b.value, "PROD": lambda: a.value * b.value,
              "FLOOR_DIV": lambda: a.value // b.value}
        return Number(do[kind.name]())

vendor.IDimensionExpr = Number
asked = []
_lib._register_plugin_creator = lambda name, namespace, attributes: asked.append((name, namespace, list(attributes)))
assert plugin.available()
plugin.register("the PTX")
known = _lib.QDP_REGISTRY[plugin.PLUGIN_ID]

images, channels, rank = map(int, sys.argv[1:])
_tensor.SymIntExpr._exprBuilder = Evaluator()
G = api.TensorDesc(api.ShapeExprs.from_tuple((images, channels, channels)), vendor.float32)
attributes = {"rank": np.array([rank], np.int32)}
U = known.register_func(G, **attributes)
[combination] = [made for c in known.autotune_func(G, (U,)) for made in c._get_combinations()]
name, ptx, shape, scalars = known.aot_impl_func(G, *attributes.values(), (U,), 0)
value = lambda expression: expression._expr.get_constant_value()
print(json.dumps({
    "registered": asked,
    "inputs": known.input_tensor_names,
    "outputs": known.num_outputs,
    "output": [list(map(value, U.shape_expr)), str(U.dtype)],
    "types": [str(t) for t in combination.types],
    "kernel": [name, ptx],
    "grid": [value(shape.grid_x), value(shape.grid_y), value(shape.grid_z)],
    "block": [value(shape.block_x), value(shape.block_y), value(shape.block_z)],
    "shared": value(shape.shared_mem),
    "scalars": [[type(s).__name__, value(s)] for s in scalars],
    "checked": [isinstance(shape, api.KernelLaunchParams), isinstance(scalars, api.SymExprs)],
}))
"""


def run(code: str, *arguments: object, libraries: Path | None = None) -> object:
    environment = os.environ | ({"LD_LIBRARY_PATH": str(libraries)} if libraries else {})
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_parser_asks_for_it_by_name_namespace_and_version(tmp_path: Path) -> None:
    """The first node has too many channels and becomes layers; the second goes to the plugin, with its rank."""
    pytest.importorskip("tensorrt_rtx")
    onnx.save(divide(projectors(65, 16, rank=3)).model, tmp_path / "model.onnx")
    asked, layers = run(PARSE, tmp_path / "model.onnx")  # type: ignore[misc]
    assert asked == [{"rank": [3]}]
    assert layers > 20


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("tensorrt_bindings") is None or shutil.which("gcc") is None:
        pytest.skip("TensorRT's Python package (tensorrt-cu13-bindings) or gcc is not there")
    folder = tmp_path_factory.mktemp("libraries")
    for name, symbols in LIBRARIES.items():
        source = "".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in symbols)
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", folder / name, f"-Wl,-soname,{name}"]
        subprocess.run(command, input=source, text=True, check=True)
    return folder


@pytest.mark.parametrize(("images", "channels", "rank"), [(1, 64, 16), (3, 17, 4)])
def test_the_package_accepts_it(libraries: Path, images: int, channels: int, rank: int) -> None:
    """What it declares to the package is what the kernel's parameters are (test_plugin_kernel.py)."""
    assert run(REGISTER, images, channels, rank, libraries=libraries) == {
        "registered": [["TopKProjector", "kdguard", ["rank"]]],
        "inputs": ["G"],
        "outputs": 1,
        "output": [[images, channels, rank], "DataType.FLOAT"],
        "types": ["DataType.FLOAT", "DataType.FLOAT"],
        "kernel": [KERNEL, "the PTX"],
        "grid": [images, 1, 1],
        "block": [THREADS, 1, 1],
        "shared": shared_bytes(channels, rank),
        "scalars": [["SymInt32", channels], ["SymInt32", rank]],
        "checked": [True, True],
    }
