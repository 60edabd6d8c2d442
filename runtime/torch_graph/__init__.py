"""ONNX graphs as differentiable torch modules: what fine-tunes a teacher that exists as a file only.

module = GraphModule(load_onnx("teacher.onnx"))
restored, feature_map = module(images, taps=["relu_3"])
...                                  # any torch training
save_onnx(write_back(teacher, module), "tuned.onnx")
"""

from kdguard.runtime.torch_graph.module import GraphModule
from kdguard.runtime.torch_graph.weights import write_back

__all__ = ["GraphModule", "write_back"]
