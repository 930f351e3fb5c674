"""Starts brokers as processes and talks to them over real sockets. No test logic."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.lab.lifeline import lifeline, tied


class BrokerProcess:
    """A broker on a free port of loopback, ready when the constructor returns. Use as a context manager."""

    def __init__(self, data: Path, *flags: str, config: str | None = None, env: dict[str, str] | None = None) -> None:
        self.data = data
        arguments = tied("gateway.broker", "--listen", "127.0.0.1:0", "--data", str(data), *flags)
        if config is not None:
            path = data.parent / f"{data.name}.toml"
            path.write_text(config)
            arguments += ["--config", str(path)]
        self.log: list[str] = []
        self.clients: list[Client] = []
        self.process = subprocess.Popen(
            arguments, bufsize=0, stdin=lifeline(), stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
        )
        try:
            self.port = int(self.wait_for_log(r"listening on 127\.0\.0\.1:(\d+)")[1])
        except BaseException:
            self.__exit__()
            raise

    def wait_for_log(self, pattern: str, timeout_s: float = 10) -> re.Match[str]:
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

    def client(self, timeout_s: float = 5) -> Client:
        """A new connection, closed with the broker when the test does not do it."""
        self.clients.append(Client(self.port, timeout_s))
        return self.clients[-1]

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def stat(self, key: str) -> int:
        with contextlib.closing(self.client()) as client:
            return int(client.stats().get(key, "0"))

    def wait_for_stat(self, key: str, wanted: int, timeout_s: float = 5) -> None:
        """Asks until the counter has the value: what it counts happens in another process, without a signal."""
        deadline = time.monotonic() + timeout_s
        while (found := self.stat(key)) != wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"{key} is {found}, not {wanted}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self.kill()
        if self.process.stderr is not None:
            self.process.stderr.close()


class Client:
    """A raw client: bytes out, bytes in."""

    def __init__(self, port: int, timeout_s: float = 5) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises TimeoutError, or EOFError when the broker closes before."""
        while len(self.buffer) < count:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(self.buffer)
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(self.buffer)
            self.buffer += data
        cut = self.buffer.index(end) + len(end)
        data, self.buffer = self.buffer[:cut], self.buffer[cut:]
        return data

    def read_all(self) -> bytes:
        """Everything up to the broker's close."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(1 << 20):
                self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def line(self) -> bytes:
        return self.read_until(b"\r\n")

    def ask(self, data: bytes) -> bytes:
        """Sends a command whose answer is one line, and returns it."""
        self.send(data)
        return self.line()

    def put(self, key: str, data: bytes, expiry: int = 0) -> bytes:
        self.send(b"set %s 0 %d %d\r\n%s\r\n" % (key.encode(), expiry, len(data), data))
        return self.line()

    def get(self, key: str) -> bytes | None:
        """One item by `get key`, options included; None for END."""
        self.send(f"get {key}\r\n".encode())
        return self.value()

    def value(self) -> bytes | None:
        line = self.line()
        if line == b"END\r\n":
            return None
        word, _, _, length = line.split()
        assert word == b"VALUE", line
        data = self.read(int(length))
        assert self.read(7) == b"\r\nEND\r\n"
        return data

    def stats(self) -> dict[str, str]:
        self.send(b"stats\r\n")
        lines = self.read_until(b"END\r\n").decode("latin-1").split("\r\n")
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))

    def reset(self) -> None:
        """Closes with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()
