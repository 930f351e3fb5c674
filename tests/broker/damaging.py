"""Makes data directories, damages them, and reports what a broker then does. No test logic."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.broker.__main__ import run
from tests.lab.broker import BrokerProcess
from tests.lab.memcache import MemcacheClient

COMMAND = [sys.executable, "-m", "gateway.broker"]
TAKEN_AT_ONCE = 32


@dataclass
class Outcome:
    """What a start on a damaged directory led to. Each queue's jobs, in the order in which they came."""

    started: bool
    log: str
    delivered: dict[str, list[bytes]] = field(default_factory=dict)
    refused: dict[str, bytes] = field(default_factory=dict)  # what a get was answered that is neither item nor END

    @property
    def errors(self) -> list[str]:
        return [line for line in self.log.splitlines() if " ERROR " in line]


def serve(data: Path, queues: list[str]) -> Outcome:
    """Starts a broker, takes all that each queue gives, stops it."""
    try:
        broker = BrokerProcess(data, "--fsync", "off")
    except AssertionError as exc:
        if "broker ended" not in str(exc):  # it is only slow
            raise
        return Outcome(False, str(exc))
    with broker:
        found = Outcome(True, "")
        for queue in queues:
            with contextlib.closing(broker.client()) as client:
                found.delivered[queue], last = _take_all(client, queue)
            if last != b"END\r\n":
                found.refused[queue] = last
        assert broker.stop() == 0
        assert broker.process.stderr is not None
        found.log = "".join(broker.log) + broker.process.stderr.read().decode()
    return found


def _take_all(client: MemcacheClient, queue: str) -> tuple[list[bytes], bytes]:
    """Opens and confirms each item, and returns them with the first answer that is none. A refused get ends the
    connection, and one behind the last item finds nothing, so those that are sent ahead take no further item."""
    taken: list[bytes] = []
    while True:
        client.send(f"get {queue}/open\r\nconfirm {queue} 1\r\n".encode() * TAKEN_AT_ONCE)
        for _ in range(TAKEN_AT_ONCE):
            line = client.line()
            if not line.startswith(b"VALUE "):
                return taken, line
            taken.append(client.read(int(line.split()[3])))
            assert client.read(7) == b"\r\nEND\r\n"
            answer = client.line()
            assert answer == b"END\r\n", answer


def unlike(delivered: dict[str, list[bytes]], stored: dict[str, list[bytes]]) -> tuple[list[str], list[str]]:
    """What was delivered and never stored there, and what was stored and not delivered; as readable lines."""
    wrong, lost = [], []
    for queue, jobs in stored.items():
        got, put = Counter(delivered.get(queue, [])), Counter(jobs)
        wrong += [f"{queue}: {job[:40]!r}" for job in (got - put)]
        lost += [f"{queue}: {job[:40]!r}" for job in (put - got)]
    return wrong, lost


def check(data: Path, *flags: str) -> tuple[int, str]:
    """`broker check`: its exit code and all that it prints. In this process: a start takes longer than most checks."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as ended:
        run(["check", *flags, str(data)], "kestrel-gateway broker")
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.getvalue()


def execute(data: Path, *statements: str) -> None:
    """Changes the file behind the broker's back."""
    with contextlib.closing(sqlite3.connect(data / "broker.sqlite", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(data: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(data / "broker.sqlite", isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def fill(data: Path, stored: dict[str, list[bytes]], *, end: str = "stop") -> None:
    """Puts the jobs with a broker, which is then stopped, or killed so that its log holds the last commits."""
    with BrokerProcess(data, "--fsync", "off") as broker:
        client = broker.client()
        for queue, jobs in stored.items():
            for job in jobs:
                client.send(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(job), job))
                if end == "kill":  # each is a commit of its own
                    assert client.line() == b"STORED\r\n"
            if end == "stop":
                assert all(client.line() == b"STORED\r\n" for _ in jobs)
        if end == "stop":
            assert broker.stop() == 0
        else:
            broker.kill()
    (data / "broker.reserve").unlink(missing_ok=True)


def copy(data: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(data, to)
    return to


def numbers(text: str, pattern: str) -> list[int]:
    return [int(found) for found in re.findall(pattern, text)]
