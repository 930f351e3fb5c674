"""A test run that is killed leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STARTS = {
    "broker": "from tests.lab.broker import BrokerProcess as Process",
    "gateway": "from tests.lab.gateway import Running as Process",
}


@pytest.mark.parametrize("what", STARTS)
def test_processes_of_a_killed_run_end(tmp_path: Path, root: Path, what: str) -> None:
    """`kill -9` of the one who started it: gone within 2 s."""
    code = f"""
{STARTS[what]}
from pathlib import Path
import signal
one = Process(Path({str(tmp_path / "data")!r}))
print(one.process.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    deadline = time.monotonic() + 60
    try:
        while _lives(pid):
            assert time.monotonic() < deadline, "it outlives the run"
            time.sleep(0.01)
    finally:
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
