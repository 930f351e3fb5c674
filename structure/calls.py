"""What requests call in a gateway that serves: started with the probe, asked over HTTP, one request at a time."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedRWPair
from pathlib import Path

from tests.lab.ports import free_port

READY_S = 30.0
QUIET_S = 0.05
"""A request has ended when its answer is read and nothing has been called for so long."""
REPEATS = 9
"""The smallest count of so many is taken: a timer may fall into one of them."""

TracedCall = tuple[str, str, str | None]
"""File, qualified name and the caller's file, as the probe tells them."""


class TraceError(Exception):
    """The gateway did not start, or answered with something unexpected."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The calls of one request, in order. name: which request it is."""

    name: str
    calls: tuple[TracedCall, ...]

    @property
    def files(self) -> int:
        """How many files the called functions are in."""
        return len({file for file, _, _ in self.calls})

    @property
    def hops(self) -> int:
        """Calls from a function of one file to a function of another."""
        return sum(caller not in {None, file} for file, _, caller in self.calls)

    @property
    def entries(self) -> int:
        """Calls by the event loop: callbacks, and tasks that begin."""
        return sum(caller is None for _, _, caller in self.calls)


class Probe:
    """The probes of a gateway's processes, the broker's among them."""

    def __init__(self, directory: Path) -> None:
        self._streams = []
        for path in sorted(directory.glob("*.sock")):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                self._streams.append(connection.makefile("rwb"))

    def begin(self) -> None:
        """Clears every record."""
        for stream in self._streams:
            self._ask(stream, b"begin\n")

    def calls(self) -> tuple[TracedCall, ...]:
        """The record of the process that was called most outside the broker: the worker's, once it is quiet."""
        before = -1
        while True:
            records = [json.loads(self._ask(stream, b"read\n")) for stream in self._streams]
            counted = max(([call for call in record if not _of_broker(call[0])] for record in records), key=len)
            if len(counted) == before:
                return tuple((file, name, caller) for file, name, caller in counted)
            before = len(counted)
            time.sleep(QUIET_S)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    @staticmethod
    def _ask(stream: BufferedRWPair, command: bytes) -> bytes:
        stream.write(command)
        stream.flush()
        return stream.readline()


def trace(root: Path) -> list[Trace]:
    """The calls of an enqueue, an empty next, a next with a job at hand, and an ack, of the gateway below `root`.

    Raises TraceError.
    """
    with _traced_gateway(root) as (client, probe):
        repeated = [_round(client, probe) for _ in range(REPEATS + 1)][1:]  # the first one connects and fills caches
    return [min(traces, key=lambda each: len(each.calls)) for traces in zip(*repeated, strict=True)]


def _round(client: http.client.HTTPConnection, probe: Probe) -> list[Trace]:
    lease = ""

    def ask(name: str, method: str, path: str, body: bytes | None, expected: int) -> Trace:
        nonlocal lease
        probe.begin()
        client.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = client.getresponse()
        content = answer.read()
        if answer.status != expected:
            raise TraceError(f"{method} {path}: {answer.status} instead of {expected}: {content[:300]!r}")
        lease = answer.headers.get("Lease-Id", lease)
        return Trace(name, probe.calls())

    return [
        ask("enqueue", "POST", "/queues/traced/jobs", b'{"to":"ada@example.org"}', 201),
        ask("next, job at hand", "GET", "/queues/traced/next?timeout=0", None, 200),
        ask("ack", "POST", f"/leases/{lease}/ack", None, 204),
        ask("next, empty", "GET", "/queues/traced/next?timeout=0", None, 204),
    ]


@contextlib.contextmanager
def _traced_gateway(root: Path) -> Iterator[tuple[http.client.HTTPConnection, Probe]]:
    root = root.resolve()
    with tempfile.TemporaryDirectory(prefix="structure-") as name:
        directory = Path(name)
        port = free_port()
        environment = os.environ | {
            "PYTHONPATH": f"{root}:{Path(__file__).parent / 'probe'}",
            "STRUCTURE_PROBE_ROOT": str(root / "gateway"),
            "STRUCTURE_PROBE_DIR": name,
        }
        command = [
            sys.executable,
            "-P",
            "-m",
            "gateway",
            "serve",
            "--port",
            str(port),
            "--data",
            str(directory / "data"),
        ]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=root, stdout=log, stderr=log, start_new_session=True
            )
        try:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            _wait(lambda: _ready(client), process, directory / "log")
            probe = Probe(directory)
            try:
                yield client, probe
            finally:
                probe.close()
                client.close()
        finally:
            process.terminate()
            process.wait(READY_S)


def _ready(client: http.client.HTTPConnection) -> bool:
    try:
        client.request("GET", "/readyz")
        answer = client.getresponse()
        answer.read()
    except OSError:
        client.close()
        return False
    return answer.status == 200


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + READY_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise TraceError(f"the gateway did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _of_broker(file: str) -> bool:
    return file.startswith("broker/")
