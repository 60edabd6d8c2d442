"""Work of others is told from the bench's own, and from idling."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdguard.runtime.bench.other_work import _STATISTICS, OtherWork, OtherWorkMeter, busy_seconds
from kdguard.runtime.bench.tables import bench_tables, busy_words, time_finding
from tests.runtime.report.made_up import bench

CONTENT = """cpu  300 30 60 9000 600 6 12 18 150 15
cpu0 100 10 20 3000 200 2 4 6 50 5
cpu1 200 20 40 6000 400 4 8 12 100 10
cpu11 7 0 0 0 0 0 0 0 0 0
intr 5
"""


@pytest.mark.parametrize(("cores", "ticks"), [({0}, 142), ({1}, 284), ({0, 1}, 426), ({11}, 7), (set(), 0)])
def test_work_of_some_cores(cores: set[int], ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither idling nor waiting counts, and what a guest of this machine ran counts once."""
    monkeypatch.setattr("os.sysconf", {"SC_CLK_TCK": 100}.__getitem__)
    assert busy_seconds(CONTENT, cores) == pytest.approx(ticks / 100)


@pytest.mark.skipif(not _STATISTICS.is_file(), reason="this system does not tell how busy it is")
def test_what_a_process_beside_works_counts() -> None:
    program = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    meter = OtherWorkMeter()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as beside:
        assert beside.stdout and beside.stdout.readline()
        passed = meter.passed()
        found = meter.read()
        beside.communicate(b"\n")
    assert found.cores >= 1
    assert found.busy is not None
    assert found.busy * passed > 0.4  # in steps of 10 ms


@pytest.mark.skipif(not _STATISTICS.is_file(), reason="this system does not tell how busy it is")
def test_a_child_that_had_worked_before_hides_nothing() -> None:
    """What it did counts as ours when it ends; taken off, it would stand for work of others that nobody sees."""
    program = "import time\nwhile time.process_time() < 3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as before:
        assert before.stdout and before.stdout.readline()
        meter = OtherWorkMeter()
        before.communicate(b"\n")
    assert meter.read().busy is None


def test_a_busy_machine_is_said() -> None:
    assert not OtherWork(cores=2, busy=0.2).much
    assert OtherWork(cores=2, busy=0.21).much
    assert not OtherWork(cores=64, busy=5).much
    assert not OtherWork(cores=2, busy=None).much
    assert busy_words(OtherWork(cores=2, busy=0.1)) == []
    (warning,) = busy_words(OtherWork(cores=2, busy=1.26))
    assert warning.startswith("other work kept 1.3 of 2 cores busy meanwhile")
    for busy, said in ((1.26, True), (0.0, False)):
        found = bench(1.1, busy)
        assert (warning in str(bench_tables(found)[0].caption)) is said
        assert time_finding(found).endswith(", on a busy machine.") is said
