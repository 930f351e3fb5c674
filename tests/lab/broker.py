"""A broker as a process, and what a test does to it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import HOST, free_port
from tests.lab.processes import START_S
from tests.lab.waiting import until


class BrokerProcess:
    """A broker, ready when the constructor returns. Use as a context manager.

    listen: HOST:PORT or unix:PATH; a free port of loopback if it is not given. worker_socket: a path for multiplexed
    connections. log: the lines that `wait_for_log` has read.
    """

    def __init__(
        self,
        data: Path,
        *flags: str,
        listen: str = "",
        worker_socket: str = "",
        config: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.data = data
        self.address = listen or f"{HOST}:{free_port()}"
        self.worker_socket = worker_socket
        self.flags = [*flags, *(["--worker-socket", worker_socket] if worker_socket else [])]
        if config is not None:
            path = data.parent / f"{data.name}.toml"
            path.write_text(config)
            self.flags += ["--config", str(path)]
        self.env = {**os.environ, **(env or {})}
        self.log: list[str] = []
        self.clients: list[MemcacheClient] = []
        self.start()

    def start(self) -> None:
        """Starts it, again on the same address and directory, and returns when it is ready."""
        if self.clients or self.log:
            self._forget()
        arguments = tied("gateway.broker", "--listen", self.address, "--data", str(self.data), *self.flags)
        self.process: subprocess.Popen[bytes] = ForkedProcess(
            arguments, bufsize=0, stdin=lifeline(), stderr=subprocess.PIPE, env=self.env
        )
        try:
            self.wait_for_log(r"listening on \S", START_S)
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def wait_for_log(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """The first line from here on that matches; fails when the process ends or the time is over."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + timeout_s
        while True:
            if not select.select([self.process.stderr], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise AssertionError(f"no log line {pattern!r} in {self.log}")
            line = self.process.stderr.readline().decode()
            if not line:
                raise AssertionError(f"broker ended: {''.join(self.log)}")
            self.log.append(line)
            if match := re.search(pattern, line):
                return match

    def client(self, timeout_s: float = 20) -> MemcacheClient:
        """A new connection, closed with the broker when the test does not do it."""
        self.clients.append(MemcacheClient(self.address, timeout_s))
        return self.clients[-1]

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def cpu_s(self) -> float:
        """The CPU time of all its threads so far."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # Source: Linux, CPUCLOCK_SCHED of posix-timers.h

    def stat(self, key: str) -> int:
        """A number of its `stats`; 0 where it does not tell it."""
        with contextlib.closing(self.client()) as client:
            return int(client.stats().get(key, "0"))

    def ask(self, command: str) -> str:
        """The line that it answers to a command."""
        with contextlib.closing(self.client()) as client:
            return client.ask(command.encode() + b"\r\n").decode().strip()

    def waiters(self, key: str) -> int:
        """How many gets are blocked on the queue."""
        return self.stat(f"queue_{key}_waiters")

    def connections(self) -> int:
        """How many clients it has, without the one that asks."""
        return self.stat("curr_connections") - 1

    def wait_for_stat(self, key: str, wanted: int, timeout_s: float = 60) -> None:
        """Asks until the counter has the value: what it counts happens in another process, without a signal."""
        until(
            lambda: self.stat(key) == wanted,
            lambda: f"{key} is {self.stat(key)}, not {wanted}",
            within_s=timeout_s,
        )

    def freeze(self) -> None:
        """It accepts connections, since the kernel does, and never answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once, also while it is frozen."""
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing of it is left."""
        self.kill()
        self._forget()

    def _forget(self) -> None:
        """Closes what is left of a life that is over."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process.stderr is not None:
            self.process.stderr.close()
