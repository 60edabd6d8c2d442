"""Compiles the native kernels: `python -m kdguard.runtime.kernels.build`, or `make native`.

The library for onnxruntime goes into the user's cache folder, under a name that holds a hash of the sources, so that
a library of other sources is never taken for this one; `runtime.native` finds it there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kdguard.export.errors import MissingDependencyError, UserError

SOURCES = Path(__file__).parent
INSTRUCTION_SETS = {"x86_64": {name: f"-march=x86-64-{name}" for name in ("v2", "v3", "v4")}}
"""Builds of the CPU code by machine; one without such a list gets one build, `generic`."""
FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno", "-Wall", "-Wextra")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g")
PLUGIN_SOURCE = SOURCES / "plugin.cu"
PLUGIN_ARCHITECTURE = "compute_75"
"""The oldest that TensorRT 11 and CUDA 13 know; newer GPUs take it too."""
FOLDER_VARIABLE = "KDGUARD_NATIVE"
GPUS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Turing to Blackwell."""
HASH_BYTES = 32
CUDA_FLAGS = ("-std=c++17", "-O3", "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden")


def source_files() -> list[Path]:
    """Everything that is compiled or included, and this file, which holds the flags."""
    kinds = {".cpp", ".h", ".cuh", ".cu"}
    return [*sorted(path for path in SOURCES.rglob("*") if path.suffix in kinds), Path(__file__)]


@cache
def fingerprint() -> str:
    """A hash of the sources and of the machine they are compiled for; kept, since every session asks for it."""
    digest = hashlib.sha256(platform.machine().encode())
    for path in source_files():
        digest.update(path.relative_to(SOURCES).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def library_path() -> Path:
    """Where the library for onnxruntime lies once it is built; KDGUARD_NATIVE names another folder than the cache.

    Raises:
        RuntimeError: no folder is named and the user has no home.
    """
    named = os.environ.get(FOLDER_VARIABLE) or os.environ.get("XDG_CACHE_HOME")
    cache = Path(named) if named else Path.home() / ".cache"
    folder = cache if os.environ.get(FOLDER_VARIABLE) else cache / "kdguard"
    return folder.absolute() / f"libkdguard_onnxruntime-{fingerprint()}.so"


def is_whole(library: Path) -> bool:
    """Whether a library ends with the hash of the rest: one that was cut off would end the process that loads it."""
    content = library.read_bytes()
    return content[-HASH_BYTES:] == hashlib.sha256(content[:-HASH_BYTES]).digest()


def build_library(target: Path, gpus: Sequence[str] = ()) -> Path:
    """Build the custom-op library for onnxruntime's CPU provider, and for its CUDA provider where GPUs are named.

    Args:
        gpus: architectures, as nvcc names them; `compute_` ones become code that a driver compiles.

    Raises:
        MissingDependencyError: there is no C++ compiler, or GPUs are named and there is no nvcc.
        UserError: one of them refuses the sources.
    """
    builds = INSTRUCTION_SETS.get(platform.machine(), {"generic": ""})
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{name}.o" for name in ("perturb", "library", *builds)]
        for_gpus = [_compile_for_gpus(Path(folder) / "device_api.o", gpus)] if gpus else []
        _compile(SOURCES / "cpu" / "perturb.cpp", objects[0])
        _compile(SOURCES / "onnxruntime" / "library.cpp", objects[1], ["-DKDGUARD_CUDA"] if gpus else [])
        for (name, flag), made in zip(builds.items(), objects[2:], strict=True):
            _compile(SOURCES / "cpu" / "kernels.cpp", made, [f"-DKDGUARD_ISA={name}", *([flag] if flag else [])])
        return _link([*objects, *for_gpus], target, linker=_cuda_linker() if gpus else None)


def build_best_library(target: Path) -> tuple[Path, tuple[str, ...], str]:
    """Build for the CPU, and for CUDA where its compiler is there and works.

    Returns:
        The library, the architectures whose GPUs it is for, and why there are none.

    Raises:
        MissingDependencyError: there is no C++ compiler.
        UserError: it refuses the sources.
    """
    left_out = f"there is no {nvcc_name()!r}"
    if has_nvcc():
        try:
            if gpus := gpus_of_nvcc():
                return build_library(target, gpus), gpus, ""
            left_out = f"{nvcc_name()!r} knows none of {', '.join(GPUS)}"
        except UserError as error:
            # Where it is the C++ compiler that fails, it does so again below.
            first, *said = str(error).splitlines()
            left_out = next((line for line in said if "error" in line.lower()), first.rstrip(":"))
    return build_library(target), (), left_out


def build_cuda_kernels(target: Path, gpus: Sequence[str]) -> Path:
    """Build the CUDA kernels and their host side alone, for `device_library.DeviceLibrary`.

    Args:
        gpus: as for `build_library`; `native` is the GPU of this machine.

    Raises:
        MissingDependencyError: there is no nvcc or no C++ compiler.
        UserError: it refuses the sources.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _link([_compile_for_gpus(Path(folder) / "device_api.o", gpus)], target, linker=_cuda_linker())


def build_kernels_on_cpu(target: Path, *, sanitize: bool = False, onnxruntime: bool = False) -> Path:
    """Build the CUDA kernels so that a CPU runs them thread by thread, for tests.

    Args:
        sanitize: with the address and undefined-behaviour sanitizers; Python then needs libasan loaded first.
        onnxruntime: with the kernels for onnxruntime's CUDA provider, registered for its CPU provider.

    Raises:
        MissingDependencyError: there is no C++ compiler.
        UserError: it refuses the sources.
    """
    flags = SANITIZERS if sanitize else ()
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / "on_cpu.o"]
        _compile(SOURCES / "on_cpu.cpp", objects[0], ["-O1" if sanitize else "-O2", "-Wno-unknown-pragmas", *flags])
        if onnxruntime:
            objects.append(Path(folder) / "library.o")
            _compile(SOURCES / "onnxruntime" / "library.cpp", objects[1], ["-DKDGUARD_CUDA_STAND_IN", *flags])
        return _link(objects, target, flags)


def build_plugin_kernel(target: Path) -> Path:
    """Compile the projector for TensorRT's plugin to PTX, which drivers finish for the GPU they find.

    Raises:
        MissingDependencyError: there is no nvcc or no C++ compiler, which it preprocesses with.
        UserError: it refuses the sources.
    """
    nvcc = _nvcc("the plugin needs", ", or leave --plugin out, and the op's function runs")
    _run([*nvcc, "-std=c++17", "-ptx", f"-arch={PLUGIN_ARCHITECTURE}", str(PLUGIN_SOURCE), "-o", str(target)])
    return target


def plugin_fingerprint() -> str:
    """A hash of what the plugin is compiled from, and for which architecture."""
    digest = hashlib.sha256(PLUGIN_ARCHITECTURE.encode())
    for name in (PLUGIN_SOURCE.name, "top_k_projector.cuh", "block.cuh"):
        digest.update(name.encode())
        digest.update((SOURCES / name).read_bytes())
    return digest.hexdigest()


def compiler() -> str:
    """Name of the C++ compiler.

    Raises:
        MissingDependencyError: there is none.
    """
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise MissingDependencyError(
            f"the native kernels need the C++ compiler {name!r}, which is not there; install g++ or name one in CXX"
        )
    return name


def has_nvcc() -> bool:
    """Whether the CUDA compiler is there; NVCC names another one."""
    return shutil.which(nvcc_name()) is not None


def gpus_of_nvcc() -> tuple[str, ...]:
    """Those of `GPUS` that this nvcc knows, and code for newer ones, which their driver compiles; none without nvcc."""
    if not has_nvcc():
        return ()
    known = _run([nvcc_name(), "--list-gpu-code"]).split()
    gpus = [gpu for gpu in GPUS if gpu in known]
    return (*gpus, gpus[-1].replace("sm_", "compute_")) if gpus else ()


def nvcc_name() -> str:
    """What the CUDA compiler is called."""
    return os.environ.get("NVCC", "nvcc")


def _nvcc(who_needs: str = "the CUDA kernels need", instead: str = "") -> list[str]:
    if not has_nvcc():
        raise MissingDependencyError(
            f"{who_needs} the CUDA compiler {nvcc_name()!r}, which is not there; install the CUDA toolkit or name one "
            f"in NVCC{instead}"
        )
    return [nvcc_name(), "-ccbin", compiler()]


def _compile(source: Path, made: Path, flags: Sequence[str] = ()) -> None:
    _run([compiler(), "-O3", *FLAGS, *flags, "-c", str(source), "-o", str(made)])


def _compile_for_gpus(made: Path, gpus: Sequence[str]) -> Path:
    targets = [_gpu_flag(gpu) for gpu in gpus]
    _run([*_nvcc(), *CUDA_FLAGS, *targets, "-c", str(SOURCES / "device_api.cu"), "-o", str(made)])
    return made


def _gpu_flag(gpu: str) -> str:
    if gpu == "native":
        return "-arch=native"
    return f"-gencode=arch=compute_{gpu.partition('_')[2]},code={gpu}"


def _cuda_linker() -> list[str]:
    """nvcc finds its own runtime, which stays inside: onnxruntime brings another one, and neither may see the other."""
    return [*_nvcc(), "-cudart=static", "-Xlinker=--exclude-libs=ALL"]


def _link(
    objects: Sequence[Path], target: Path, flags: Sequence[str] = (), linker: Sequence[str] | None = None
) -> Path:
    """Link into the target's folder under another name first, so that nobody loads half a library.

    Its hash goes to its end, where loaders do not look. In a file of its own, two builds at once could leave one's
    library with the other's hash, whatever the order of their renames.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        _run([*(linker or [compiler()]), "-shared", *flags, *map(str, objects), "-o", str(unfinished)])
        content = unfinished.read_bytes()
        unfinished.write_bytes(content + hashlib.sha256(content).digest())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a compiler on our files
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Build and print where the result lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the library to write; default: where kdguard looks for it")
    parser.add_argument("--no-cuda", action="store_true", help="for the CPU only, even where there is nvcc; quicker")
    parser.add_argument("--kernels-on-cpu", action="store_true", help="the CUDA kernels for tests instead; needs --out")
    given = parser.parse_args()
    if given.kernels_on_cpu and given.out is None:
        parser.error("--kernels-on-cpu needs --out")
    target = given.out or library_path()
    gpus: tuple[str, ...] = ()
    left_out = ""
    try:
        if given.kernels_on_cpu:
            made = build_kernels_on_cpu(target)
        elif given.no_cuda:
            made = build_library(target)
        else:
            made, gpus, left_out = build_best_library(target)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    used = "" if given.out else ": kdguard uses it from now on; delete it, and the functions in the files run again"
    print(f"{made}{used}")
    if not given.kernels_on_cpu:
        print(f"for the CPU and for CUDA: {', '.join(gpus)}" if gpus else "for the CPU")
    if left_out:
        print(f"CUDA kernels were left out: {left_out}; --no-cuda does so without trying", file=sys.stderr)


if __name__ == "__main__":
    main()
