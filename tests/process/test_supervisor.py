"""`serve` as a user's process: what it starts, what signals do, and that it never leaves anything behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.common.channel import GROUP_SIGNALS
from tests.lab import plain
from tests.lab.examples import examples
from tests.lab.forkserver import SERVER, ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port
from tests.lab.processes import START_S, children_of, group_lives
from tests.lab.waiting import until

TINY = "tests.process.tiny_app:create_app"
# Children do not look for modules in the working directory; the tiny application is to be found all the same.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
NOBODY = ("--kestrel", "127.0.0.1:1")  # the tiny application asks no Kestrel


class Serve:
    """One `serve` in a process group of its own. executed: it starts as a user's does, with all its imports."""

    process: subprocess.Popen[bytes]
    first_text: str  # what it had logged when it was ready

    def __init__(self, logs: Path, data: Path, *flags: str, port: int | None = None, executed: bool = False) -> None:
        self.port = port or free_port()
        self.data = data
        self.log = logs / f"serve-{self.port}-{time.monotonic_ns()}.log"
        command = tied("gateway", "serve", "--port", str(self.port), "--data", str(data), *flags)
        with self.log.open("wb") as log:
            self.process = (subprocess.Popen if executed else ForkedProcess)(
                command, stdin=lifeline(), stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT
            )

    def ready(self) -> Serve:
        """Returns when every child serves."""
        until(lambda: "ready: http://" in self.text() or self.process.poll() is not None, within_s=START_S)
        self.first_text = self.text()
        assert self.process.poll() is None, self.first_text
        return self

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    def get(self, path: str) -> httpx.Response:
        """One request on a connection of its own."""
        return plain.get(f"http://127.0.0.1:{self.port}{path}", timeout=30)

    def children(self) -> dict[int, str]:
        """Its child processes: number and command line."""
        return {pid: command for pid, command in children_of(self.process.pid).items() if SERVER not in command}

    def child(self, module: str) -> int:
        """The one child that runs `module`."""
        (pid,) = [pid for pid, command in self.children().items() if module in command]
        return pid

    def end(self) -> None:
        """Whatever a failed test left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    """Starts `serve` on the test's own data directory, and ends what is left afterwards."""
    started: list[Serve] = []

    def start(*flags: str, data: Path | None = None, port: int | None = None, executed: bool = False) -> Serve:
        started.append(Serve(tmp_path, data or tmp_path / "data", *flags, port=port, executed=executed))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One with its defaults, executed, for tests that leave it alive.

    Each child gets the group's signals in the first moment of its life. In the end the supervisor is killed, and no
    process is left.
    """
    folder = tmp_path_factory.mktemp("shared")
    one = Serve(folder, folder / "data", executed=True)
    try:
        known: set[int] = set()
        for _ in ("broker", "worker"):
            until(lambda: one.children().keys() - known)
            (new,) = one.children().keys() - known
            for number in GROUP_SIGNALS:
                os.kill(new, number)
            known.add(new)
        yield one.ready()
        one.process.kill()
        one.process.wait()
        until(lambda: not group_lives(one.process.pid))
    finally:
        one.end()


def hang_up_and_terminate(group: int) -> None:
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.killpg(group, number)


ENDS: dict[str, tuple[int, Callable[[int], object]]] = {
    "kill -9 of the supervisor": (2, lambda pid: os.kill(pid, signal.SIGKILL)),
    "TERM to the group": (1, lambda pid: os.killpg(pid, signal.SIGTERM)),
    "Ctrl-C": (2, lambda pid: os.killpg(pid, signal.SIGINT)),
    "HUP and TERM to the group": (1, hang_up_and_terminate),
}
"""Each with the number of workers."""
GRACE_S = 40
POLL = b"GET /queues/q/next?timeout=60 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HALF_SENT = b"POST /queues/q/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx"


def test_nothing_is_left_and_the_next_one_starts(serve: Callable[..., Serve]) -> None:
    """No process is left long before the grace ends, even with a poll parked and ten clients in the middle of a body.

    The next one starts on the same port and directory.
    """
    port = None
    for how, (workers, end) in ENDS.items():
        one = serve("--workers", str(workers), "--grace", str(GRACE_S), port=port).ready()
        port = one.port
        assert len(one.children()) == workers + 1
        with contextlib.ExitStack() as clients:
            for sent in (POLL, *[HALF_SENT] * 10):
                clients.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(sent)
            assert one.get("/livez").status_code == 200
            end(one.process.pid)
            until(lambda one=one: one.process.poll() is not None, within_s=GRACE_S / 2)  # type: ignore[misc]
            until(lambda one=one: not group_lives(one.process.pid), within_s=GRACE_S / 2)  # type: ignore[misc]
        assert one.process.returncode == (-signal.SIGKILL if "kill -9" in how else 0), how
        assert "did not end in time" not in one.text()


def test_next_one_starts_at_once_after_kill_9(serve: Callable[..., Serve]) -> None:
    """Started in the moment the supervisor is killed, the next one waits for the last child and serves."""
    running = serve().ready()
    for _ in range(examples(2, fewest=1)):
        running.process.kill()
        running = serve(port=running.port).ready()


def test_kill_9_in_the_middle_of_a_start_leaves_nothing(serve: Callable[..., Serve]) -> None:
    """A child that is still importing ends as well."""
    one = serve(executed=True)
    until(one.children)
    one.process.kill()
    one.process.wait()
    until(lambda: not group_lives(one.process.pid))


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """The broker of this new directory does not get ready in the block: it waits for its lock, for 3 s."""
    data.mkdir(mode=0o700)
    with (data / "broker.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def test_a_start_can_be_stopped(serve: Callable[..., Serve], tmp_path: Path) -> None:
    """SIGTERM before it is ready ends it in order."""
    with locked(tmp_path / "data"):
        one = serve()
        until(lambda: any("gateway.broker" in command for command in one.children().values()))
        one.process.terminate()
        until(lambda: "draining" in one.text())
    assert one.process.wait(20) == 0
    assert "ready:" not in one.text()
    assert not group_lives(one.process.pid)


def test_term_drains(serve: Callable[..., Serve]) -> None:
    """A parked request is answered, an idle connection closed, exit code 0."""
    one = serve("--app", TINY, *NOBODY).ready()
    with socket.create_connection(("127.0.0.1", one.port)) as parked:
        parked.sendall(b"GET /park HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: "parked=1" in one.get("/seen").text)
        one.process.terminate()
        assert parked.recv(1000).startswith(b"HTTP/1.1 204 ")
        assert one.process.wait(20) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(serve: Callable[..., Serve], second: signal.Signals) -> None:
    """A drain that has to wait is cut short, with exit code 0 still."""
    one = serve("--app", "tests.process.tiny_app:create_stubborn_app", *NOBODY, "--grace", "30").ready()
    with socket.create_connection(("127.0.0.1", one.port)) as parked:
        parked.sendall(b"GET /park HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: "parked=1" in one.get("/seen").text)
        one.process.terminate()
        until(lambda: "draining" in one.text())
        with pytest.raises(subprocess.TimeoutExpired):
            one.process.wait(0.5)
        one.process.send_signal(second)
        assert one.process.wait(20) == 0, "the grace is 30 s"
    assert not group_lives(one.process.pid)


def test_grace_ends_a_drain(serve: Callable[..., Serve]) -> None:
    """What does not finish within the grace is cut off."""
    one = serve("--app", "tests.process.tiny_app:create_stubborn_app", *NOBODY, "--grace", "0.3").ready()
    with socket.create_connection(("127.0.0.1", one.port)) as parked:
        parked.sendall(b"GET /park HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: "parked=1" in one.get("/seen").text)
        one.process.terminate()
        assert one.process.wait(20) == 0


def test_dead_worker_is_replaced(serve: Callable[..., Serve]) -> None:
    """The port stays open: a request that comes in between waits for the new worker."""
    one = serve("--app", TINY, *NOBODY).ready()
    old = int(one.get("/pid").text)
    os.kill(old, signal.SIGKILL)
    new = int(one.get("/pid").text)
    assert new != old
    assert "worker-0 died (signal 9); restarting it in 0.1 s" in one.text()


def test_dead_broker_is_replaced(shared: Serve) -> None:
    """A job enqueued before is there afterwards, from the same worker."""
    one = shared
    worker = one.child("gateway.process.worker")
    job = plain.post(f"http://127.0.0.1:{one.port}/queues/q/jobs", content=b"x", timeout=30)
    assert job.status_code == 201
    os.kill(one.child("gateway.broker"), signal.SIGKILL)
    until(lambda: one.get("/queues/q/next?timeout=1").status_code == 200)
    assert one.child("gateway.process.worker") == worker


def test_children_that_are_killed_in_their_first_start_are_started_again(
    serve: Callable[..., Serve], tmp_path: Path
) -> None:
    """It is a death like any other: the gateway comes up, and ends in order."""

    def kill(module: str) -> None:
        until(lambda: any(module in command for command in one.children().values()))
        os.kill(one.child(module), signal.SIGKILL)

    with locked(tmp_path / "data"):
        hold = tmp_path / "data" / "hold"
        hold.touch()
        one = serve("--app", "tests.process.tiny_app:create_late_app")
        kill("gateway.broker")
    kill("gateway.process.worker")
    until(lambda: "worker-0 died (signal 9); restarting it in 0.1 s" in one.text())
    assert "broker died (signal 9); restarting it in 0.1 s" in one.text()
    assert "ready:" not in one.text()
    hold.unlink()
    one.ready()
    until(lambda: one.get("/readyz").status_code == 200)  # the worker that started again asks Kestrel, too
    one.process.terminate()
    assert one.process.wait(30) == 0


def test_children_ignore_the_group_signals(shared: Serve) -> None:
    """SIGTERM, SIGINT and SIGHUP to a worker or the broker change nothing; SIGHUP to the supervisor reloads."""
    one = shared
    children = one.children()
    for pid in children:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    one.process.send_signal(signal.SIGHUP)
    until(lambda: "worker-0: reload" in one.text())
    assert one.get("/livez").status_code == 200
    assert one.children() == children


def test_signal_cannot_kill_a_child_that_just_started(shared: Serve) -> None:
    """From its first instant a child is deaf to the group's signals, before its own code can say so."""
    assert "died" not in shared.first_text


def test_broker_does_not_inherit_the_port(shared: Serve) -> None:
    """Only workers hold the listening socket; settings and key are in no process's arguments or environment."""
    one = shared
    listening = next(
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{one.port:04X}") and line.split()[3] == "0A"
    )

    def holds(pid: int) -> bool:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        return f"socket:[{listening}]" in links

    assert holds(one.child("gateway.process.worker"))
    assert not holds(one.child("gateway.broker"))
    key = (one.log.parent / "data" / "lease.key").read_bytes().hex()
    for pid in one.children():
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert key.encode() not in told


def test_start_is_announced(serve: Callable[..., Serve]) -> None:
    """Version, address, backend and workers are logged, and the tiny application is ready."""
    one = serve("--app", TINY, *NOBODY, "--workers", "2", "--log-format", "json").ready()
    line = one.text().splitlines()[0]
    for part in ("kestrel-gateway 0.", f"http://127.0.0.1:{one.port}", "Kestrel at 127.0.0.1:1", "2 worker"):
        assert part in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_all_processes_log_in_one_form(serve: Callable[..., Serve], form: str) -> None:
    """Supervisor, worker and broker: the same members or the same line, with UTC times that end in Z."""
    one = serve("--log-format", form, "--broker-listen", "127.0.0.1:0").ready()
    one.get("/queues/q/next?timeout=0")
    one.process.terminate()
    assert one.process.wait(30) == 0
    seen = set()
    for line in one.text().splitlines():
        if form == "json":
            record = json.loads(line)
            assert list(record)[:5] == ["time", "level", "process", "logger", "message"]
            stamp, process = record["time"], record["process"]
        else:
            stamp, _, process = line.split(" ")[:3]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
        seen.add(process.rstrip(":"))
    assert seen == {"supervisor", "broker", "worker-0"}


def refused(one: Serve) -> str:
    """The one line with which a start was refused, with exit code 1."""
    assert one.process.wait(60) == 1
    lines = [line for line in one.text().splitlines() if " INFO " not in line]
    assert len(lines) == 1, one.text()
    assert not group_lives(one.process.pid)
    return lines[0]


def test_port_taken_is_one_line(serve: Callable[..., Serve], shared: Serve) -> None:
    """Somebody else's port: exit code 1 and what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(serve(port=port))
        wrong = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port with --port"
        assert line == f"kestrel-gateway: port: {wrong}"
    assert "Address already in use" in refused(serve(port=shared.port))


def test_foreign_address_is_one_line(serve: Callable[..., Serve]) -> None:
    """An address that is not this machine's."""
    assert "cannot listen on 192.0.2.1" in refused(serve("--host", "192.0.2.1", "--no-auth"))
    assert "not an address of this machine" in refused(serve("--host", "nowhere.invalid", "--no-auth"))


def test_data_not_writable_is_one_line(serve: Callable[..., Serve], tmp_path: Path) -> None:
    """A path below a file cannot be created by any user (a read-only directory would not stop root)."""
    (tmp_path / "file").write_text("")
    line = refused(serve(data=tmp_path / "file" / "data"))
    assert line == f"kestrel-gateway: data: {tmp_path}/file/data is not writable: Not a directory"


def test_data_in_use_is_one_line(serve: Callable[..., Serve], shared: Serve) -> None:
    """A second gateway on the same directory names the first."""
    line = refused(serve(data=shared.data))
    assert line.endswith(
        f"data is in use by another kestrel-gateway (pid {shared.process.pid}); "
        "stop it, or choose another directory with --data"
    )
    assert shared.get("/livez").status_code == 200


def test_broker_that_cannot_start_is_fatal(serve: Callable[..., Serve]) -> None:
    """At the first start its own line is shown and the gateway does not pretend to serve."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one = serve("--broker-listen", f"127.0.0.1:{taken.getsockname()[1]}")
        assert one.process.wait(60) == 1
    assert one.text().count("ERROR supervisor: broker could not start (exit code 1), 5 times in a row\n") == 1
    assert not group_lives(one.process.pid)


def test_application_that_cannot_start_is_fatal(serve: Callable[..., Serve]) -> None:
    """A worker that fails five times without ever having been ready ends the gateway too, and one line says so."""
    one = serve("--app", "tests.process.tiny_app:create_broken_app", *NOBODY)
    assert one.process.wait(60) == 1
    assert one.text().count("ERROR supervisor: worker-0 could not start (exit code 1), 5 times in a row\n") == 1
    assert one.text().count("the application cannot be created") == 5
    assert not group_lives(one.process.pid)


def test_long_data_path_gets_a_short_run_directory(serve: Callable[..., Serve], tmp_path: Path) -> None:
    """Unix sockets have short names: the run directory moves to a private temporary one that is removed at the end."""
    data = tmp_path / ("d" * 120)
    one = serve(data=data).ready()
    target = (data / "run").readlink()
    assert target.stat().st_mode & 0o777 == 0o700
    assert one.get("/readyz").status_code == 200
    one.process.kill()
    one.process.wait()
    two = serve("--app", TINY, *NOBODY, data=data).ready()
    assert not target.exists()
    target = (data / "run").readlink()
    two.process.terminate()
    assert two.process.wait(30) == 0
    assert not target.exists()
    assert not (data / "run").is_symlink()
