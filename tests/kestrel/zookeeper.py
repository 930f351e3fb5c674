"""A real ZooKeeper as a process, and Kestrel servers' entries in it.

Its jars are looked for in KESTREL_GATEWAY_TEST_ZOOKEEPER, or where .ci/run puts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from kazoo.client import KazooClient

from tests.lab.lifeline import lifeline
from tests.lab.ports import free_port

JARS = Path(
    os.environ.get("KESTREL_GATEWAY_TEST_ZOOKEEPER") or Path.home() / ".cache" / "kestrel-gateway" / "zookeeper"
)
START_S = 30.0
# A second process ends it when their standard input ends: when pytest is killed, both are gone.
TIED = 'exec 3<&0; (read _ <&3; kill -9 $$) & exec "$@" <&-'


def missing() -> str | None:
    """Why there is no ZooKeeper here; None where there is one."""
    if shutil.which("java") is None:
        return "Java is not installed"
    if not list(JARS.glob("zookeeper-3*.jar")):
        return f"no ZooKeeper in {JARS}; .ci/run puts it there, with Maven"
    return None


class ZooKeeper:
    """One server on a port of its own, which it keeps when it is started again. Its shortest session: half a second."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.configuration = directory / "zoo.cfg"
        self.configuration.write_text(
            f"tickTime=250\nmaxSessionTimeout=60000\ndataDir={directory / 'data'}\n"
            f"clientPort={self.port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        java = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", f"{JARS}/*"]
        self.process = subprocess.Popen(
            ["bash", "-c", TIED, "-", *java, "org.apache.zookeeper.server.ZooKeeperServerMain", self.configuration],
            stdin=lifeline(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + START_S
        while not self.answers():
            assert time.monotonic() < deadline_s, "ZooKeeper did not start"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it serves."""
        with contextlib.suppress(OSError):
            return "Mode:" in self.figures()
        return False

    def connections(self) -> int:
        """How many clients it has, without the one that asks."""
        line = next(line for line in self.figures().splitlines() if line.startswith("Connections: "))
        return int(line.split()[1]) - 1

    def has(self, connections: int) -> None:
        """Returns once it has that many."""
        deadline_s = time.monotonic() + 60
        while (found := self.connections()) != connections:
            assert time.monotonic() < deadline_s, f"{found} connections"
            time.sleep(0.01)

    def figures(self) -> str:
        """What it answers to its command `srvr`."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"srvr")
            with connection.makefile("rb") as answer:
                return answer.read().decode()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once; what was written stays."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
            self.process = None

    def client(self, client_id: tuple[int, bytes] | None = None) -> Client:
        return Client(self.address, client_id)


class Client:
    """A session of a test: what Kestrel writes is written by it."""

    def __init__(self, address: str, client_id: tuple[int, bytes] | None = None) -> None:
        retry = {"max_tries": -1, "delay": 0.02, "backoff": 1}
        self.kazoo = KazooClient(address, timeout=10, client_id=client_id, connection_retry=retry)
        self.kazoo.start(timeout=START_S)

    def join(self, directory: str, address: str, **more: object) -> str:
        """The server is published in the set; returns its node."""
        return self.kazoo.create(
            f"{directory}/member_", instance(address, **more), ephemeral=True, sequence=True, makepath=True
        )

    def leave(self, *nodes: str) -> None:
        for node in nodes:
            self.kazoo.delete(node)

    def close(self) -> None:
        self.kazoo.stop()
        self.kazoo.close()


def instance(address: str, **more: object) -> bytes:
    """What Kestrel writes about itself, but for what `more` says."""
    host, _, port = address.rpartition(":")
    endpoint = {"host": host, "port": int(port)}
    value = {"serviceEndpoint": endpoint, "additionalEndpoints": {"memcache": endpoint}, "status": "ALIVE"}
    return json.dumps(value | more).encode()
