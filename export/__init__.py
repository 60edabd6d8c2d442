"""Teacher in, ONNX out: torch export, model cards, tasks and the safe reading of foreign files.

The bottom layer of kdguard: `graph_passes` and `runtime` build on it and it knows neither.

>>> from kdguard.export.torch_export import export_teacher
>>> export_teacher("my_package.models:build", "weights.safetensors", "teacher.onnx", task="deraining")
"""
