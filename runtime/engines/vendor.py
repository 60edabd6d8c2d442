"""Compiles one network with the vendor's package: a program of its own, because that package may end the process.

    python -m kdguard.runtime.engines.vendor REQUEST.json

The answer is the last line on standard output, as JSON. Polygraphy takes either package, by an environment variable.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdguard.runtime.gpu import compute_capability


class Request(BaseModel):
    """What to compile, and where to."""

    package: str
    model: Path
    engine: Path
    shapes: dict[str, list[list[int]]]
    timing_cache: Path | None = None
    new_timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    gpus: list[str] = []
    plugin: Path | None = None


class RefusedError(Exception):
    """The vendor's parser or builder does not take what it was given; the text says why."""


class Answer(BaseModel):
    """What came of it; where nothing did, one of the last three says why.

    Attributes:
        refused: by the vendor.
        lacking: on this machine.
        unwritten: a file, or one that could not be read.
    """

    vendor_version: str = ""
    compute_capability: str = ""
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    seconds: float = 0.0
    refused: str = ""
    lacking: str = ""
    unwritten: str = ""


def compile_network(request: Request) -> Answer:
    """Parse, build and write the engine.

    Raises:
        RefusedError: the vendor does not take the model, or what was asked for.
    """
    vendor = import_module(request.package)
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, Profile, create_network

    answer = Answer(vendor_version=vendor.__version__)
    if request.package == "tensorrt":
        answer.compute_capability = compute_capability() or ""
    if request.plugin:
        _register_plugin(request.plugin)
    started = time.monotonic()
    builder, network = create_network(strongly_typed=True)
    parser = vendor.OnnxParser(network, vendor.Logger(vendor.Logger.INTERNAL_ERROR))
    if not parser.parse_from_file(str(request.model)):  # with the weights beside it, where it has any
        raise RefusedError(_refusal(parser.get_error(0)))
    answer.inputs = [_describe(network.get_input(i)) for i in range(network.num_inputs)]
    answer.outputs = [_describe(network.get_output(i)) for i in range(network.num_outputs)]
    profile = Profile()
    for name, (smallest, usual, largest) in request.shapes.items():
        profile.add(name, min=smallest, opt=usual, max=largest)
    config = CreateConfig(profiles=[profile], **_options(vendor, request))(builder, network)
    _set_gpus(vendor, config, request.gpus)
    if request.timing_cache:
        _read_timing_cache(config, request.timing_cache)
    engine = EngineBytesFromNetwork((builder, network, parser), config=config)()
    request.engine.write_bytes(bytes(engine))
    if request.new_timing_cache:
        request.new_timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    answer.seconds = round(time.monotonic() - started, 1)
    return answer


def _options(vendor: Any, request: Request) -> dict[str, Any]:
    """Only what was asked for: TensorRT-RTX knows fewer options than TensorRT."""
    options: dict[str, Any] = {}
    if request.version_compatible:
        options["version_compatible"] = True
    if request.hardware_compatible:
        options["hardware_compatibility_level"] = vendor.HardwareCompatibilityLevel.AMPERE_PLUS
    return options


def _register_plugin(kernel: Path) -> None:
    from kdguard.runtime.engines import plugin

    if not plugin.available():
        raise RefusedError("this version takes no plugins that are compiled ahead of time; 10.9 and later should")
    plugin.register(kernel.read_text())


def _read_timing_cache(config: Any, path: Path) -> None:
    """Hand the builder a cache. It takes whatever else it gets for an empty one, so emptiness tells.

    Raises:
        RefusedError: the file is no cache, or one of another version or GPU.
    """
    content = path.read_bytes()
    empty = bytes(config.create_timing_cache(b"").serialize())
    cache = config.create_timing_cache(content)
    usable = cache is not None and (content == empty or bytes(cache.serialize()) != empty)
    if not usable or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise RefusedError(f"{path} is no timing cache of this version and GPU; give the path of a new file")


def _set_gpus(vendor: Any, config: Any, gpus: list[str]) -> None:
    """Only TensorRT-RTX can be told."""
    if not gpus:
        return
    known = {name: value for name, value in vendor.ComputeCapability.__members__.items() if name.startswith("SM")}
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        name = "SM" + gpu.replace(".", "")
        if name not in known:
            listed = ", ".join(f"{other[2:-1]}.{other[-1]}" for other in known)
            raise RefusedError(f"--gpu {gpu}: it builds for compute capabilities {listed} only; give one of these")
        config.set_compute_capability(known[name], index)


def _describe(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype.name.lower(), "shape": list(tensor.shape)}


def _refusal(problem: Any) -> str:
    """The parser's first error. What it has no operator for it looks for among plugins, and says so."""
    name = problem.node_name()
    where = f"operator {problem.node_operator()}" + (f" (node {name!r})" if name else "")
    if "Plugin not found" in problem.desc():
        return f"it has no {where}"
    said = _first(problem.desc())
    if said == "false":  # a check of its own that failed, without words
        return f"it does not take {where} and does not say why"
    return f"{where}: {said}"


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def main() -> None:
    """Read the request, compile, print the answer."""
    request = Request.model_validate_json(Path(sys.argv[1]).read_bytes())
    if request.package == "tensorrt_rtx":
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when Polygraphy is imported
    try:
        answer = compile_network(request)
    except RefusedError as refusal:
        answer = Answer(refused=str(refusal))
    except ImportError as error:
        answer = Answer(lacking=f"{error.name or error} is not there or not whole; install the vendor's package again")
    except OSError as error:
        if error.errno is None:  # of ctypes: a library that does not load
            answer = Answer(lacking=f"{error}; install the vendor's package again")
        else:
            where = error.filename or request.engine
            answer = Answer(unwritten=f"cannot read or write {where}: {error.strerror}; is there room on the disk?")
    sys.stdout.flush()
    print("\n" + json.dumps(answer.model_dump()))


if __name__ == "__main__":
    main()
