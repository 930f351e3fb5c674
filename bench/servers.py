"""Starts the servers to be measured, each a process of its own, and reads from /proc what they use. Linux only."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.lab.ports import free_port

READY_S = 30.0
STOP_S = 10.0


class BenchError(Exception):
    """The run cannot go on: a server did not become ready, or the load generator could not do what it was asked."""


@dataclass(frozen=True, slots=True)
class MeasuredServer:
    """A server that runs. address: HOST:PORT. pid: the process that serves. broker: its queue server, where it has one.

    memcache: HOST:PORT of that queue server.
    """

    address: str
    pid: int
    broker: int | None = None
    memcache: str = ""
    ready_s: float = 0.0


@contextlib.contextmanager
def echo(directory: Path) -> Iterator[MeasuredServer]:
    """The bare Starlette echo."""
    port = free_port()
    with _spawn(["-m", "bench.echo", str(port)], directory / "echo.log") as process:
        _until_ready(process, port, "/livez", directory / "echo.log")
        yield MeasuredServer(f"127.0.0.1:{port}", process.pid)


@contextlib.contextmanager
def gateway(directory: Path, *flags: str) -> Iterator[MeasuredServer]:
    """`serve` with its embedded broker, one worker, its data in `directory`."""
    port, broker_port = free_port(), free_port()
    log = directory / "gateway.log"
    directory.mkdir(parents=True, exist_ok=True)
    command = ["-m", "gateway", "serve", "--port", str(port), "--data", str(directory / "data")]
    command += ["--broker-listen", f"127.0.0.1:{broker_port}", *flags]
    with _spawn(command, log) as process:
        _until_ready(process, port, "/readyz", log)
        worker, broker = _child(process.pid, "gateway.process.worker"), _child(process.pid, "gateway.broker")
        yield MeasuredServer(f"127.0.0.1:{port}", worker, broker, f"127.0.0.1:{broker_port}")


@contextlib.contextmanager
def gateway_of(root: Path, directory: Path, *flags: str) -> Iterator[MeasuredServer]:
    """`serve` of another source tree, with its embedded broker, one worker. pid: the process that was started."""
    port, log = free_port(), directory / "gateway.log"
    command = ["-P", "-m", "gateway", "serve", "--port", str(port), "--data", str(directory / "data"), *flags]
    with _spawn(command, log, root=root) as process:
        _until_ready(process, port, "/readyz", log)
        yield MeasuredServer(f"127.0.0.1:{port}", process.pid)


@contextlib.contextmanager
def gateway_before(directory: Path, *flags: str) -> Iterator[MeasuredServer]:
    """`serve` before servers that `flags` name, one worker."""
    port, log = free_port(), directory / "gateway.log"
    command = ["-m", "gateway", "serve", "--port", str(port), "--data", str(directory / "data"), *flags]
    with _spawn(command, log) as process:
        _until_ready(process, port, "/readyz", log)
        yield MeasuredServer(f"127.0.0.1:{port}", _child(process.pid, "gateway.process.worker"))


@contextlib.contextmanager
def broker(directory: Path) -> Iterator[MeasuredServer]:
    """The broker alone. ready_s: from starting the process until it said it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "broker.log"
    ours, theirs = socket.socketpair()
    command = ["-m", "gateway.broker", "--listen", "127.0.0.1:0", "--data", str(directory / "data")]
    command += ["--channel-fd", str(theirs.fileno())]
    started_s = time.perf_counter()
    with ours, theirs, _spawn(command, log, pass_fds=(theirs.fileno(),)) as process:
        theirs.close()
        ours.settimeout(READY_S)
        try:
            said = json.loads(ours.makefile("rb").readline())
        except (OSError, ValueError) as exc:
            raise BenchError(f"the broker did not become ready:\n{_tail(log)}") from exc
        ready_s = time.perf_counter() - started_s
        yield MeasuredServer("", process.pid, process.pid, said["listen"][0], ready_s)
        ours.sendall(b'{"command":"stop"}\n')
        process.wait(STOP_S)


class Load:
    """The load generator's process, as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_root()
        )
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, do: str, limit_s: float = 300.0, **order: Any) -> dict[str, Any]:
        """Has one order carried out. Raises BenchError when the load generator could not, or not in time."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], limit_s)[0]:
            self._process.kill()
            raise BenchError(f"the load generator did not finish {do!r} in {limit_s:g} s")
        reply: dict[str, Any] = json.loads(self._process.stdout.readline() or b'{"error":"the load generator ended"}')
        if "error" in reply:
            raise BenchError(f"{do}: {reply['error']}")
        return reply


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that the threads of the process have used, user and system; to the scheduler's nanosecond."""
    if pid is None:
        return 0.0
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def family(server: MeasuredServer) -> list[int]:
    """The server's supervisor and all that it started: every worker, and the broker."""
    parent = int(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [parent, *map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())]


def descendants(pid: int) -> list[int]:
    """The processes that the process started, and those that they started."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(each for child in children for each in descendants(child))]


def resident_bytes(pid: int) -> int:
    """The process' resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def connections_held(server: MeasuredServer) -> int:
    """How many connections the queue server has, without the one that asks."""
    host, port = server.memcache.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as asking:
        asking.sendall(b"stats\r\n")
        reply = b""
        while not reply.endswith(b"END\r\n"):
            reply += asking.recv(65536)
    figures = dict(line.split()[1:3] for line in reply.decode().splitlines() if line.startswith("STAT "))
    return int(figures["curr_connections"]) - 1


def settle(*pids: int | None) -> None:
    """Returns when the processes have used no CPU for a quarter of a second, at most 10 s later."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        before = [cpu_s(pid) for pid in pids]
        time.sleep(0.25)
        if before == [cpu_s(pid) for pid in pids]:
            return


def fsync_ms(directory: Path, count: int = 200) -> float:
    """Median milliseconds to write 4 KiB and fsync it: what this disk asks of every commit."""
    took_s = []
    with (directory / "fsync-probe").open("wb") as probe:
        for _ in range(count):
            probe.write(bytes(4096))
            probe.flush()
            started_s = time.perf_counter()
            os.fsync(probe.fileno())
            took_s.append(time.perf_counter() - started_s)
    return statistics.median(took_s) * 1000


@contextlib.contextmanager
def _spawn(
    command: list[str], log: Path, pass_fds: tuple[int, ...] = (), root: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """root: the source tree to import from; None: this one."""
    root = root or _root()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=pass_fds,
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            # Ctrl-C is the benchmark's: it ends its servers itself, in order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise BenchError(f"not ready:\n{_tail(log)}")


def _child(parent: int, module: str) -> int:
    """The parent's child process that runs `module`."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise BenchError(f"no child process runs {module}")


def _root() -> Path:
    return Path(__file__).parent.parent


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
