"""A forked process is like an executed one: the same surroundings, the same end, the same parent."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.forkserver import SERVER, ForkedProcess, ForkServer
from tests.lab.gateway import running
from tests.lab.lifeline import lifeline, tied
from tests.lab.processes import children_of

MODULE = "tests.lab.surroundings"


def seen(kind: type[subprocess.Popen[bytes]], folder: Path, passed: int, *, session: bool) -> dict[str, object]:
    """What a process that is started in this way sees. Its limits, umask and mask are the caller's."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    at_hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    umask = os.umask(0o27)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, limits[1]))
    try:
        with kind(
            tied(MODULE, "one", "two words"),
            stdin=lifeline(),
            stdout=subprocess.PIPE,
            pass_fds=[passed],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "LC_CTYPE": "C.UTF-8",  # Python sets it where no locale is set
                "OURS": "é\n=",
            },
            start_new_session=session,
        ) as process:
            found: dict[str, object] = json.loads(process.communicate()[0])
        assert process.returncode == 7
        return found
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.umask(umask)
        signal.signal(signal.SIGHUP, at_hang_up)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.parametrize("session", [True, False])
def test_it_sees_what_an_executed_one_sees(tmp_path: Path, session: bool) -> None:
    """Arguments, directory, environment, descriptors, limits, mask, handlers, umask, session, parent."""
    ForkServer.of_this_process()  # it starts with other limits, mask and umask than those of `seen`
    ours, theirs = socket.socketpair()
    with ours, theirs:
        executed = seen(subprocess.Popen, tmp_path, theirs.fileno(), session=session)
        forked = seen(ForkedProcess, tmp_path, theirs.fileno(), session=session)
    assert forked == executed
    assert forked["parent"] == os.getpid()
    assert forked["arguments"] == ["one", "two words"]
    assert forked["umask"] == 0o27


SCRIPT = """
import json, pathlib, sys, gateway
command = pathlib.Path("/proc/self/cmdline").read_text().rstrip("\\0")
print(json.dumps([sys.argv, sys.path[0], gateway.FILE, __name__, __file__, command]))
"""


def test_a_script_sees_what_an_executed_one_sees(tmp_path: Path) -> None:
    """Its arguments and command line, and the modules of its own folder, also one that has the name of ours."""
    (tmp_path / "gateway.py").write_text("FILE = __file__")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), "one", "two words"]
    executed, forked = (
        json.loads(kind(command, stdout=subprocess.PIPE, text=True).communicate()[0])
        for kind in (subprocess.Popen, ForkedProcess)
    )
    assert forked == executed
    assert forked[2] == str(tmp_path / "gateway.py")


def test_it_ends_as_an_executed_one_does() -> None:
    """What it has printed is flushed, its threads have ended, and then its exit handlers have run."""
    ends = []
    for kind in (subprocess.Popen, ForkedProcess):
        with kind(tied(MODULE, "end"), stdin=lifeline(), stdout=subprocess.PIPE, text=True) as process:
            ends.append((process.communicate()[0], process.wait()))
    assert ends == [("printed, a thread has ended, at exit", 9)] * 2


def test_it_is_signalled_and_waited_for() -> None:
    """Like any child: `wait` returns the signal that ended it, and no zombie is left."""
    process: ForkedProcess[bytes] = ForkedProcess(tied(MODULE, "sleep"), stdin=lifeline())
    assert process.poll() is None
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert process.pid not in children_of(os.getpid())


def test_an_error_is_printed_and_ends_it() -> None:
    """With the traceback on its standard error, and exit code 1."""
    process: ForkedProcess[bytes] = ForkedProcess(tied(MODULE, "fail"), stdin=lifeline(), stderr=subprocess.PIPE)
    with process:
        assert b"ZeroDivisionError" in process.communicate()[1]
    assert process.returncode == 1


def test_a_gateway_forks_its_children(tmp_path: Path) -> None:
    """Broker and workers are children of the supervisor with the command lines of executed ones; all end with it."""
    with running(tmp_path / "data", "--workers", "2") as gateway:
        children = children_of(gateway.process.pid)
        commands = sorted(each.split()[each.split()[0] == sys.executable and 3] for each in children.values())
        assert commands == ["gateway.broker", "gateway.process.worker", "gateway.process.worker", SERVER]
        deadline_s = time.monotonic() + 60
        assert gateway.stop() == 0
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
