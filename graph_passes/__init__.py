"""ONNX to ONNX: the op and the passes that put it into graphs. One pass, one file, each pure.

Builds on `kdguard.export` and knows nothing of `kdguard.runtime`.

>>> from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
>>> from kdguard.graph_passes.op import SvdPerturbAttributes
>>> result = InsertSvdPerturb(["relu_*"], SvdPerturbAttributes(gain=10.0))(model)
>>> result.modified
"""
