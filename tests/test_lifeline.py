"""A test run that is killed leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import gateway
from tests.lab.waiting import until


@contextmanager
def broker(data: Path) -> Iterator[int]:
    """The pid of a broker that another Python has started, which is killed in the end."""
    code = f"""
from pathlib import Path
import signal
from tests.lab.broker import BrokerProcess
one = BrokerProcess(Path({str(data)!r}))
print(one.process.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        yield int(run.stdout.readline())
        run.kill()


@contextmanager
def forked_gateway(data: Path) -> Iterator[int]:
    """The pid of a gateway as tests have it, on the lifeline of a fork of this process, which is killed in the end."""
    read_fd, write_fd = os.pipe()
    if not (run := os.fork()):
        while True:
            signal.pause()
    os.close(write_fd)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gateway, "lifeline", lambda: read_fd)
        one = gateway.Running(data)
    yield one.process.pid
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    try:
        one.process.wait(60)
    finally:
        one.kill()
        os.close(read_fd)


@pytest.mark.parametrize("started", [broker, forked_gateway])
def test_processes_of_a_killed_run_end(tmp_path: Path, started) -> None:
    """`kill -9` of the one who started it: gone within 2 s."""
    with started(tmp_path / "data") as pid:
        assert _lives(pid)
    try:
        until(lambda: not _lives(pid), lambda: "it outlives the run")
    finally:
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
