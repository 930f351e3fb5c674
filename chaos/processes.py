"""The processes of a run: servers, replicas with their workers, clients. Starts and ends them and injects faults, by
pid alone.

Knows no schedule and judges nothing. Every process started here is ended here, also when the run fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from chaos.broker_faults import VARIABLE
from chaos.client import named, tokens
from chaos.ledger import Left
from chaos.schedule import PlannedFault
from tests.lab.forkserver import ForkedProcess
from tests.lab.http import HttpClient
from tests.lab.lifeline import lifeline, tied
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import HOST, free_port
from tests.lab.processes import group_lives

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
READY_S = 30.0
TOKEN = re.compile(rb'"token":\s*"([^"]+)"')
HELD = re.compile(rb'held1 [^\n]*"queue":"([^"]+)"')
"""A delayed job on a holding queue, and the queue that it goes to."""
CONTROL = "__control"
"""The end of the key of the gateways' own item, which stays."""


class ProcessError(Exception):
    """A process did not come up, or did not end."""


class RestartedProcess:
    """One process, started again after each death on the same command. Leader of a session of its own."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, broker_fault: str = "") -> None:
        """broker_fault: one of chaos.broker_faults, for its embedded broker."""
        self.name = name
        self._environment = ENVIRONMENT
        self._kind: type[subprocess.Popen[bytes]] = ForkedProcess
        if broker_fault:
            self._kind = subprocess.Popen  # the fault is planted at the start of Python
            path = os.pathsep.join([str(ROOT / "chaos" / "planted"), str(ROOT)])
            self._environment = {**ENVIRONMENT, "PYTHONPATH": path, VARIABLE: broker_fault}
        self.lives = 0
        self._arguments = list(arguments)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def command(self) -> list[str]:
        return tied(*self._arguments)

    def start(self) -> None:
        """Starts it; returns before it is ready."""
        with self._log.open("ab") as log:
            self._process = self._kind(
                self.command,
                stdin=lifeline(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment,
            )
        self.lives += 1

    def workers(self) -> list[int]:
        """The pids of a replica's workers, in the order of their age."""
        return self._children(b"gateway.process.worker")

    def brokers(self) -> list[int]:
        """The pid of a replica's embedded broker, if it runs."""
        return self._children(b"gateway.broker")

    def _children(self, module: bytes) -> list[int]:
        found = []
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    if module in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(int(pid))
        return sorted(found)

    def family(self) -> list[int]:
        """It and its children; children of a dead parent are not found."""
        return [self.pid, *self.workers(), *self.brokers()] if self.running else []

    def kill(self) -> None:
        """Ends it and its children at once, frozen or not, and waits until they are gone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        deadline_s = time.monotonic() + 10
        while group_lives(self._process.pid):
            if time.monotonic() > deadline_s:
                raise ProcessError(f"{self.name} outlives its SIGKILL")
            time.sleep(0.005)

    def kill_parent(self) -> None:
        """Ends it alone; its children see to themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def terminate(self) -> None:
        """Asks it to end in order; does not wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Returns when it has ended in order, as it was asked to, or by force after ten seconds."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        self.kill()


class Processes:
    """All processes of a run. Use as a context manager; leaving it ends all that run."""

    def __init__(
        self,
        directory: Path,
        *,
        servers: int,
        replicas: int,
        workers: int,
        flags: Sequence[str] = (),
        broker_fault: str = "",
    ) -> None:
        """servers: 0: each replica has its embedded broker. broker_fault: one of chaos.broker_faults."""
        self._broker_fault = broker_fault
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.server_ports = [free_port() for _ in range(servers or replicas)]  # of embedded brokers, if there are none
        self.ports = [free_port() for _ in range(replicas)]
        self.servers = [self._server(number) for number in range(servers)]
        self.replicas = [self._replica(number, workers, flags) for number in range(replicas)]
        self.clients: dict[str, RestartedProcess] = {}
        self._frozen: dict[str, list[int]] = {}

    def __enter__(self) -> Self:
        try:
            for process in [*self.servers, *self.replicas]:
                process.start()
            self.until_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Nothing of the run lives any more."""
        for process in [*self.clients.values(), *self.replicas, *self.servers]:
            process.kill()

    def until_ready(self, seconds: float = READY_S) -> None:
        """Every server listens and every replica says that it is ready. Raises ProcessError."""
        deadline_s = time.monotonic() + seconds
        for process, port in [
            *zip(self.servers, self.server_ports, strict=False),
            *zip(self.replicas, self.ports, strict=True),
        ]:
            while not (_listens(port) if process in self.servers else _ready(port)):
                if time.monotonic() > deadline_s or not process.running:
                    raise ProcessError(f"{process.name} is not ready:\n{self.log(process.name)}")
                time.sleep(0.02)

    def log(self, name: str) -> str:
        """The end of a process's output."""
        return (self.directory / f"{name}.log").read_text(errors="replace")[-3000:]

    def client(self, name: str, arguments: Sequence[str]) -> RestartedProcess:
        """A client, started."""
        process = self.clients[name] = RestartedProcess(name, arguments, self.directory / f"{name}.log")
        process.start()
        return process

    def begin(self, fault: PlannedFault) -> bool:
        """Kills or freezes; False when there was nothing to hit."""
        pids = self._pids(fault.target)
        if not pids:
            return False
        if fault.action == "freeze":
            self._frozen[fault.target] = [pid for pid in pids if _signal(pid, signal.SIGSTOP)]
            return bool(self._frozen[fault.target])
        if fault.action == "fill":
            return _limit_files(pids[0], full=True)
        if fault.target.startswith(("worker", "broker")):
            return _signal(pids[0], signal.SIGKILL)
        process = self.process(fault.target)
        if fault.action == "kill-parent":
            process.kill_parent()
        else:
            process.kill()
        return True

    def finish(self, fault: PlannedFault) -> None:
        """Thaws a frozen process, and frees a full disk. The caller restarts what nothing else restarts."""
        if fault.action == "fill":
            for pid in self._pids(fault.target):
                _limit_files(pid, full=False)
        for pid in self._frozen.pop(fault.target, []):
            _signal(pid, signal.SIGCONT)

    def process(self, target: str) -> RestartedProcess:
        """The process of a target; of a worker its replica's."""
        kind, _, place = target.partition("-")
        if kind == "server":
            return self.servers[int(place)]
        if kind in ("replica", "worker", "broker"):
            return self.replicas[int(place.partition(".")[0])]
        return self.clients[target]

    def _pids(self, target: str) -> list[int]:
        process = self.process(target)
        if not process.running:
            return []
        if target.startswith("worker"):
            place = int(target.rpartition(".")[2])
            return process.workers()[place : place + 1]
        if target.startswith("broker"):
            return process.brokers()
        return process.family() if target.startswith("replica") else [process.pid]

    def serve_data(self) -> None:
        """Starts brokers on the data of replicas that have ended, at the addresses of their embedded brokers."""
        if not self.servers:
            self.servers = [self._server(number, f"replica-{number}") for number in range(len(self.replicas))]
            for process, port in zip(self.servers, self.server_ports, strict=True):
                process.start()
                _until_listens(port, process.name)

    def _server(self, number: int, data: str = "") -> RestartedProcess:
        name = f"server-{number}"
        address = f"{HOST}:{self.server_ports[number]}"
        arguments = ["gateway", "broker", "--listen", address, "--data", str(self.directory / (data or name))]
        return RestartedProcess(name, [*arguments, "--log-level", "warning"], self.directory / f"{name}.log")

    def _replica(self, number: int, workers: int, flags: Sequence[str]) -> RestartedProcess:
        name = f"replica-{number}"
        arguments = ["gateway", "serve", "--port", str(self.ports[number]), "--workers", str(workers)]
        arguments += ["--data", str(self.directory / name), "--log-level", "warning"]
        if self.servers:
            arguments += [part for port in self.server_ports for part in ("--kestrel", f"{HOST}:{port}")]
        else:
            arguments += ["--broker-listen", f"{HOST}:{self.server_ports[number]}"]
        own = [flag.replace("{port}", str(self.ports[number])) for flag in flags]
        return RestartedProcess(name, [*arguments, *own], self.directory / f"{name}.log", self._broker_fault)


def left_behind(port: int, server: int) -> list[Left]:
    """Takes all items on a server's queues."""
    found = []
    with contextlib.closing(MemcacheClient(f"{HOST}:{port}", 10)) as memcache:
        for key in memcache.queues():
            for item in () if key.endswith(CONTROL) else memcache.take_all(key):
                now_s = time.monotonic()
                found += [Left(t=now_s, token=token, queue=key, server=server) for token in _tokens(key, item)]
    return found


def _tokens(key: str, item: bytes) -> list[str]:
    """The jobs that an item is, or will be: a delayed job is copied to the subscription when it is due."""
    found, held = TOKEN.search(item), HELD.match(item)
    if not found:
        return [repr(item[:80])]
    token, queue = found[1].decode(), held[1].decode() if held else key
    return tokens(queue, token) if held and "+" not in queue else [named(queue, token)]


def waiting(port: int) -> int:
    """Jobs on a server's queues, dead letters aside, and open reads of any."""
    with contextlib.closing(MemcacheClient(f"{HOST}:{port}", 10)) as memcache:
        queues = memcache.queues()
    items = sum(figures["items"] for key, figures in queues.items() if not key.endswith(("dead", CONTROL)))
    return items + sum(figures["open_transactions"] for figures in queues.values())


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _limit_files(pid: int, *, full: bool) -> bool:
    """No file of the process may grow: what a full disk is to it. False if it is gone."""
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 if full else hard, hard))
    except ProcessLookupError:
        return False
    return True


def _until_listens(port: int, name: str) -> None:
    deadline_s = time.monotonic() + READY_S
    while not _listens(port):
        if time.monotonic() > deadline_s:
            raise ProcessError(f"{name} is not ready")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 2).close()
    except OSError:
        return False
    return True


def _ready(port: int) -> bool:
    http = HttpClient(port, 2.0)
    try:
        return http.ask("GET", "/readyz").status == 200
    except OSError:
        return False
    finally:
        http.close()
