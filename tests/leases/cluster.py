"""Replicas of the gateway in front of one broker, as processes on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab import ledger
from tests.lab.gateway import Running
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port

SECRET = "a secret of more than thirty-two bytes"  # separators would split it in the variable, not in the flag


class Broker:
    """A broker that outlives the gateways."""

    def __init__(self, data: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            tied("gateway.broker", "--listen", self.address, "--data", str(data), "--log-level", "error"),
            stdin=lifeline(),
        )
        host, _, port = self.address.partition(":")
        deadline_s = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 2):
                return
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Replica(Running):
    """One gateway that says where the others reach it."""

    def __init__(self, data: Path, broker: Broker, *flags: str, secrets: tuple[str, ...], host: str) -> None:
        port = free_port()
        own = ["--kestrel", broker.address, "--advertise", f"http://{host}:{port}"]
        own += [part for secret in secrets for part in ("--cluster-secret", secret)]
        super().__init__(data, *own, *flags, port=port)

    def freeze(self) -> None:
        """Every process of it stands still; the kernel goes on accepting connections for it."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


class Cluster:
    """A broker and the replicas that were started before it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.broker = Broker(directory / "broker")
        self.replicas: list[Replica] = []

    def start(self, *flags: str, secrets: tuple[str, ...] = (SECRET,), host: str = "127.0.0.1") -> Replica:
        """One more replica, ready. host: as what it advertises itself."""
        place = self._directory / f"replica{len(self.replicas)}"
        self.replicas.append(Replica(place, self.broker, *flags, secrets=secrets, host=host))
        return self.replicas[-1]

    def end(self) -> None:
        for each in self.replicas:
            each.kill()
        self.broker.end()


@contextlib.contextmanager
def clustered(directory: Path) -> Iterator[Cluster]:
    cluster = Cluster(directory)
    """Replicas that are killed in the end. Where nothing has failed, their ledgers of leases balance then."""
    try:
        yield cluster
        for replica in cluster.replicas:
            if replica.is_open:
                ledger.check(replica)
    finally:
        cluster.end()
