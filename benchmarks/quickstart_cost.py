"""Wall time and peak memory of the quickstart run, workers included (Linux).

python benchmarks/quickstart_cost.py > benchmarks/results/quickstart_cost.json
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from output import write_results

ROOT = Path(__file__).parent.parent
INTERVAL_S = 0.25


def resident_kib(session: int) -> int:
    """Resident memory of all processes of a session, shared pages counted in each."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getsid(int(status.parent.name)) == session:
                total += sum(int(line.split()[1]) for line in status.read_text().splitlines() if line[:6] == "VmRSS:")
        except OSError:  # ended between the listing and the look
            continue
    return total


def main() -> None:
    kdguard = str(Path(sys.executable).with_name("kdguard"))
    with tempfile.TemporaryDirectory() as folder:
        command = [kdguard, "run", str(ROOT / "examples/quickstart/pipeline.yaml"), "--out", f"{folder}/run"]
        started, peak = time.monotonic(), 0
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            peak = max(peak, resident_kib(process.pid))
            time.sleep(INTERVAL_S)
        seconds = time.monotonic() - started
    assert process.returncode == 0, process.returncode
    write_results(
        what="kdguard run examples/quickstart/pipeline.yaml; memory is the sum of resident sizes",
        cores=os.cpu_count(),
        seconds=round(seconds, 1),
        peak_mib=round(peak / 1024),
    )


if __name__ == "__main__":
    main()
