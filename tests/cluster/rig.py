"""Several broker processes, a gateway before them, and a small HTTP client that stays out of the measurement's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab import ledger
from tests.lab.gateway import Running
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port


class Broker:
    """A broker process on a TCP port of its own, which it keeps when it is started again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.start()

    def start(self) -> None:
        """Starts it and returns when it is ready."""
        self.channel, theirs = socket.socketpair()
        flags = ["--listen", self.address, "--data", str(self.directory / "data"), "--fsync", "off"]
        with theirs:
            flags += ["--log-level", "error", "--channel-fd", str(theirs.fileno())]
            self.process = subprocess.Popen(
                tied("gateway.broker", *flags), stdin=lifeline(), pass_fds=[theirs.fileno()]
            )
        with self.channel.makefile() as lines:
            line = lines.readline()
        assert line, "the broker ended before it was ready"
        assert json.loads(line)["event"] == "ready"

    def freeze(self) -> None:
        """It accepts connections, since the kernel does, and never answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once, also while it is frozen."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.channel.close()

    def ask(self, command: str) -> str:
        """The line that it answers to a command."""
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port)), 5) as connection, connection.makefile("rb") as answer:
            connection.sendall(command.encode() + b"\r\n")
            return answer.readline().decode().strip()

    def figure(self, name: str) -> int:
        """A number of its `stats`; 0 when it does not tell it."""
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port)), 5) as connection, connection.makefile("rb") as answer:
            connection.sendall(b"stats\r\n")
            for line in answer:
                if line.startswith(f"STAT {name} ".encode()):
                    return int(line.split()[2])
                if line == b"END\r\n":
                    return 0
        raise AssertionError("no stats")

    def connections(self) -> int:
        """How many clients it has, beside the one that asks."""
        return self.figure("curr_connections") - 1

    def waiters(self, key: str) -> int:
        """How many gets are blocked on the queue."""
        return self.figure(f"queue_{key}_waiters")


@contextlib.contextmanager
def brokers(directory: Path, count: int) -> Iterator[list[Broker]]:
    """That many brokers; whichever still runs at the end is killed."""
    made: list[Broker] = []
    try:
        made.extend(Broker(directory / f"broker-{number}") for number in range(count))
        yield made
    finally:
        for broker in made:
            if broker.process.poll() is None:
                broker.kill()


@contextlib.contextmanager
def before(directory: Path, many: list[Broker], *flags: str) -> Iterator[Running]:
    """A gateway that has these brokers, listed in `directory / "members"`."""
    members = directory / "members"
    members.write_text("".join(f"{broker.address}\n" for broker in many))
    gateway = Running(directory / "gateway", "--kestrel-file", str(members), *flags)
    try:
        yield gateway
        ledger.check(gateway)
    finally:
        gateway.kill()


class Http:
    """One keep-alive connection: a request at a time, answers with a length."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        content = await reader.readexactly(int(found.get("content-length", "0")))
        if found.get("connection") == "close":
            self.close()
        return int(head[0].split(" ")[1]), found, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
