"""What `make native` builds where the CUDA compiler does not work: the CPU's kernels all the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from kdguard.export.errors import MissingDependencyError, UserError
from kdguard.runtime.kernels.build import build_plugin_kernel, compiler, is_whole, main
from kdguard.runtime.native import obstacle
from tests.runtime.kernels.kernels_on_cpu import KernelsOnCpu
from tests.runtime.test_native import CUDA, HARDENED

KNOWS_OLD_ONES = "#!/bin/sh\nprintf 'sm_52\\nsm_60\\n'\n"
FAILS = "#!/bin/sh\n[ $1 = --list-gpu-code ] && echo sm_90 && exit\necho 'a note\nfatal error: C++26' >&2\nexit 1\n"


@pytest.fixture(autouse=True)
def cxx() -> None:
    try:
        compiler()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o700)
    return str(path)


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["build", *arguments])
    main()


@pytest.mark.parametrize(
    ("nvcc", "why"),
    [
        ("/bin/false", "/bin/false --list-gpu-code failed"),
        (FAILS, "fatal error: C\\+\\+26"),
        (KNOWS_OLD_ONES, "'.*nvcc' knows none of sm_75, .*"),
    ],
)
def test_without_a_cuda_compiler_that_works(
    nvcc: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if nvcc.startswith("#!"):
        nvcc = program(tmp_path / "nvcc", nvcc)
    monkeypatch.setenv("NVCC", nvcc)
    monkeypatch.setenv("CXX", program(tmp_path / "c++", f'#!/bin/sh\nexec {compiler()} "$@" -O0\n'))  # quick
    library = tmp_path / "library.so"
    run_main(monkeypatch, "--out", str(library))
    said = capsys.readouterr()
    assert said.out == f"{library}\nfor the CPU\n"
    assert re.fullmatch(f"CUDA kernels were left out: {why}; --no-cuda does so without trying\n", said.err)
    assert is_whole(library)
    assert "was built without CUDA" in obstacle(HARDENED, CUDA, library)


def test_without_a_cxx_compiler_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, "--out", str(tmp_path / "library.so"))
    assert ended.value.code == 3
    assert "need the C++ compiler 'no-such-compiler'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_library_holds_its_own_hash(kernels: KernelsOnCpu, tmp_path: Path) -> None:
    assert is_whole(kernels.path)
    assert [path.name for path in kernels.path.parent.iterdir()] == [kernels.path.name]
    content = kernels.path.read_bytes()
    for damaged in (content[:-1], content[1:], b""):
        (tmp_path / "damaged.so").write_bytes(damaged)
        assert not is_whole(tmp_path / "damaged.so")


def test_the_plugin_is_compiled_beside_the_named_cxx_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC", program(tmp_path / "nvcc", '#!/bin/sh\necho "$@" >&2\nexit 1\n'))
    monkeypatch.setenv("CXX", "/bin/true")
    with pytest.raises(UserError, match=r"-ccbin /bin/true .*-ptx"):
        build_plugin_kernel(tmp_path / "plugin.ptx")
