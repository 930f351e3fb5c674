"""Replicas of the gateway in front of one broker, as processes on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.lab import ledger
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running
from tests.lab.ports import free_port

SECRET = "a secret of more than thirty-two bytes"  # separators would split it in the variable, not in the flag


class Replica(Running):
    """One gateway that says where the others reach it."""

    def __init__(self, data: Path, broker: BrokerProcess, *flags: str, secrets: tuple[str, ...], host: str) -> None:
        port = free_port()
        own = ["--kestrel", broker.address, "--advertise", f"http://{host}:{port}"]
        own += [part for secret in secrets for part in ("--cluster-secret", secret)]
        super().__init__(data, *own, *flags, port=port)

    def freeze(self) -> None:
        """Every process of it is stopped; the kernel goes on accepting connections for it."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


class Cluster:
    """A broker and the replicas that were started before it. broker: another cluster's, which ends it."""

    def __init__(self, directory: Path, broker: BrokerProcess | None = None) -> None:
        self._directory = directory
        self._has_own = broker is None
        self.broker = broker or BrokerProcess(directory / "broker", "--fsync", "off")
        self.replicas: list[Replica] = []

    def start(self, *flags: str, secrets: tuple[str, ...] = (SECRET,), host: str = "127.0.0.1") -> Replica:
        """One more replica, ready. host: as what it advertises itself."""
        place = self._directory / f"replica{len(self.replicas)}"
        self.replicas.append(Replica(place, self.broker, *flags, secrets=secrets, host=host))
        return self.replicas[-1]

    def end(self) -> None:
        for each in self.replicas:
            each.kill()
        if self._has_own:
            self.broker.close()


@contextlib.contextmanager
def clustered(directory: Path, broker: BrokerProcess | None = None) -> Iterator[Cluster]:
    """Replicas that are killed in the end. Where nothing has failed, their ledgers of leases balance then."""
    cluster = Cluster(directory, broker)
    try:
        yield cluster
        for replica in cluster.replicas:
            if replica.is_open:
                ledger.check(replica)
    finally:
        cluster.end()
