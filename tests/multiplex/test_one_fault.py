"""A fault of one operation is the answer to its id: the connection goes on, and every other open read with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.common.multiplex.frames import FrameKind, frame
from gateway.common.multiplex.messages import Code, Opening, pack_ids
from tests.multiplex.client import MultiplexClient, Rig
from tests.process.test_full_disk import limit_files

READS = 50
CONFIG = "[queues.small]\nmax_items = 1\n[queues.timed]\nopen_transaction_timeout = 0.01\n"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path / "data", config=CONFIG) as rig:
        yield rig


@pytest.fixture
def holding(broker: Rig) -> Iterator[tuple[MultiplexClient, list[int]]]:
    """A connection with READS open reads; at the end each is still open, and settled."""
    with contextlib.closing(broker.worker()) as worker:
        worker.put("held", *[b"%d" % number for number in range(READS)])
        ids = [worker.item("held")[0] for _ in range(READS)]
        yield worker, ids
        assert worker.settle(FrameKind.CHECK, *ids) == [Code.OK] * READS
        assert worker.confirm(*ids) == [Code.OK] * READS


def test_a_full_disk_refuses_puts_and_confirms_alone(broker, holding):
    """The item of the refused confirm is back; when there is room, everything works on the same connection."""
    worker, _ = holding
    worker.put("q", b"1")
    read, _ = worker.item("q")
    limit_files(broker.process.pid, 1)
    assert worker.put("q", b"2") == [Code.REFUSED]
    assert worker.confirm(read) == [Code.REFUSED]
    limit_files(broker.process.pid, None)
    ends_s = time.monotonic() + 60
    while worker.put("q", b"3") != [Code.OK]:  # the broker tries again after half a second
        assert time.monotonic() < ends_s
        time.sleep(0.05)
    assert worker.drain("q") == [b"1", b"3"]


def test_every_other_fault_answers_its_id_too(broker, holding):
    """A full queue, an illegal name, unknown reads and opens, a time-out, a cancelled caller, a status."""
    worker, _ = holding
    assert worker.put("small", b"1") == [Code.OK]
    assert worker.put("small", b"2") == [Code.FULL]
    assert worker.put("a.b", b"x") == [Code.ILLEGAL_NAME]
    assert worker.take("a.b") is Code.ILLEGAL_NAME
    assert worker.confirm(10**12) == worker.abort(10**12) == [Code.UNKNOWN]
    worker.cancel(10**12)
    assert worker.take("empty", wait_ms=10) is Code.EMPTY
    waits = worker.open("empty", wait_ms=20_000)
    worker.cancel(waits)
    assert worker.answer(waits) is Code.CANCELLED
    for status, put, take in (("readonly", Code.REFUSED, Code.EMPTY), ("quiescent", Code.REFUSED, Code.REFUSED)):
        broker.ask(f"status {status}")
        assert worker.put("q", b"x") == [put]
        assert worker.take("empty") is take
    broker.ask("status up")


def test_a_read_that_the_broker_ends_is_one_event(broker, holding):
    """By a time-out and by a delete: a confirm after that is unknown, and its item is not removed by it."""
    worker, _ = holding
    worker.put("timed", b"1", b"2")
    first, _ = worker.item("timed")
    time.sleep(0.02)
    again, item = worker.item("timed")
    assert item == b"1"
    assert worker.next(FrameKind.TAKEN_BACK, first).payload == b""
    assert worker.confirm(first) == [Code.UNKNOWN]
    worker.put("gone", b"1")
    deleted, _ = worker.item("gone")
    broker.ask("delete gone")
    assert worker.next(FrameKind.TAKEN_BACK, deleted).payload == b"\1"
    assert worker.confirm(deleted, again) == [Code.UNKNOWN, Code.OK]


def test_an_open_behind_an_unknown_confirm_ends_alone(holding):
    """The open that names the confirm fails; the queue keeps its item."""
    worker, _ = holding
    worker.put("next", b"1")
    opening, confirm = worker.id(), worker.id()
    worker.send(
        frame(FrameKind.OPEN, opening, Opening(b"next", after=10**12).pack()),
        frame(FrameKind.CONFIRM, confirm, pack_ids((10**12,))),
    )
    assert worker.answer(opening) is Code.FAILED
    assert worker.drain("next") == [b"1"]
