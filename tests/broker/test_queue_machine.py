"""Queues, committer and database against a plain model: sets, reads, settlements, failures, crashes, in any order."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.broker.queues import backlog as backlog_module
from gateway.broker.queues import collection
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import ClientReads, OpenItem, ReadMode, take_back
from gateway.broker.storage import batch, schema
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.broker.storage.large import data as large_data
from gateway.broker.storage.large import work as large_work
from tests.broker.steps import Steps
from tests.lab.examples import examples

LARGE_BYTES = 12
_NUMBERS = "SELECT CAST(substr(data, 1, 10) AS INTEGER) FROM items WHERE typeof(data) = 'text' ORDER BY 1"
SESSIONS = st.integers(0, 2)


class Waiting:
    """A waiter that remembers what it got."""

    def __init__(self, mode: ReadMode, reads: ClientReads, *, waits_for_items: bool) -> None:
        self.mode = mode
        self.waits_for_items = waits_for_items
        self.blocked = False
        self.reads = reads
        self.got: list[tuple[StoredItem, OpenItem | None, Ticket | None]] = []
        self.ended = False

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        self.got.append((item, read, ticket))

    def nothing(self, error: str | None) -> None:
        assert error is None
        self.ended = True


@dataclass
class Model:
    """What must hold: `ready` in order, open reads by session, and what a restart would find, by age."""

    ready: list[bytes] = field(default_factory=list)
    open: dict[int, list[bytes]] = field(default_factory=lambda: {0: [], 1: [], 2: []})
    stored: list[bytes] = field(default_factory=list)  # on disk, oldest first
    waiting: list[tuple[int, ReadMode, Waiting]] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """One queue. `puts` and `removals` are in order of their batches, `None` marks where a batch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.steps = Steps(self.directory)
        self.model = Model()
        self.count = 0
        self.reads = {session: ClientReads(100) for session in range(3)}
        self.changes: list[tuple[str, bytes, Ticket]] = []

    def teardown(self) -> None:
        self.steps.close()
        shutil.rmtree(self.directory)

    @property
    def queue(self) -> PersistentQueue:
        return self.steps.queues.get(b"q")

    # Writing

    @rule(size=st.integers(0, 3))
    def put(self, size: int) -> None:
        self.count += 1
        data = b"%d:" % self.count + b"x" * size
        taken, ticket, _ = self.steps.queues.put(b"q", data, 0)
        assert taken
        assert ticket is not None
        self.changes.append(("put", data, ticket))

    @rule()
    def put_large(self) -> None:
        self.put(LARGE_BYTES)

    @rule()
    def commit(self) -> None:
        if self.steps.commit():
            self._settle()

    @rule(count=st.integers(1, 12))
    def fill(self, count: int) -> None:
        for _ in range(count):
            self.put(1)
        while self.steps.commit():
            self._settle()

    @rule(session=SESSIONS, count=st.integers(1, 6))
    def open_some(self, session: int, count: int) -> None:
        for _ in range(count):
            self.read(session, ReadMode.OPEN)

    @rule(removals_too=st.booleans())
    def fail(self, removals_too: bool) -> None:
        if self.steps.fail(removals_too=removals_too):
            self._settle()
            self.steps.committer.sweep_chores()

    def _settle(self) -> None:
        """Takes over into the model what the batch that is back has done, in the committer's order: puts, removals."""
        model = self.model
        done = [change for change in self.changes if change[2].done]
        self.changes = [change for change in self.changes if not change[2].done]
        for kind, data, ticket in done:
            if kind == "put" and ticket.error is None:
                model.ready.append(data)
                model.stored.append(data)
            elif kind == "remove" and ticket.error is None:
                model.stored.remove(data)
        self._serve()
        for kind, data, ticket in done:
            if kind == "remove" and ticket.error is not None:
                model.ready.insert(0, data)
                self._serve()
        self._bring_for_waiters()

    def _serve(self) -> None:
        """The model's waiters take what is ready, in order."""
        model = self.model
        while model.ready and (able := [each for each in model.waiting if not each[2].blocked]):
            model.waiting.remove(able[0])
            session, mode, waiting = able[0]
            self._bring_until(partial(bool, waiting.got))
            (item, read, ticket) = waiting.got[0]
            assert item.data == model.ready[0]
            self._given(session, mode, item, read, ticket)

    def _bring_for_waiters(self) -> None:
        if self.model.waiting:
            while self.steps.bring():
                pass

    def _bring_until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self.steps.bring(), "a waiter was not served although an item is there"

    def _given(
        self, session: int, mode: ReadMode, item: StoredItem, read: OpenItem | None, ticket: Ticket | None
    ) -> None:
        model = self.model
        if mode is ReadMode.PEEK:
            assert read is None
            assert ticket is None
            return
        model.ready.pop(0)
        if mode is ReadMode.OPEN:
            assert read is not None
            model.open[session].append(item.data)
        else:
            assert ticket is not None
            self.changes.append(("remove", item.data, ticket))

    # Reading

    @rule(session=SESSIONS, mode=st.sampled_from(ReadMode))
    def read(self, session: int, mode: ReadMode) -> None:
        if any(not waiting.blocked for _, _, waiting in self.model.waiting):
            assert self.queue.read(mode, self.reads[session]) is None
            return
        found = self.queue.read(mode, self.reads[session])
        while found is None and self.queue.backlog.starved:
            assert self.steps.bring()
            found = self.queue.read(mode, self.reads[session])
        if found is None:
            assert not self.model.ready
        else:
            assert self.model.ready, f"{found} came from nowhere"
            assert found[0].data == self.model.ready[0]
            self._given(session, mode, *found)

    @rule(session=SESSIONS, mode=st.sampled_from(ReadMode))
    def wait(self, session: int, mode: ReadMode) -> None:
        if not self.model.ready:
            waiting = Waiting(mode, self.reads[session], waits_for_items=True)
            self.queue.waiters.join(waiting)
            self.model.waiting.append((session, mode, waiting))

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, _, waiting = self.model.waiting.pop(data.draw(st.integers(0, len(self.model.waiting) - 1)))
        self.queue.waiters.leave(waiting)

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        """Others come before it from now on."""
        data.draw(st.sampled_from(self.model.waiting))[2].blocked = True

    @precondition(lambda self: any(waiting.blocked for _, _, waiting in self.model.waiting))
    @rule()
    def unblock(self) -> None:
        for _, _, waiting in self.model.waiting:
            waiting.blocked = False
        while not self.queue.serve(1):
            pass
        self._serve()

    @rule()
    def bring(self) -> None:
        self.steps.bring()

    # Settling

    @precondition(lambda self: any(self.model.open.values()))
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        session = self._session_with_reads(data)
        ticket = self.reads[session].confirm_oldest(b"q")
        assert ticket is not None
        self.changes.append(("remove", self.model.open[session].pop(0), ticket))

    @precondition(lambda self: any(self.model.open.values()))
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        session = self._session_with_reads(data)
        self.model.ready.insert(0, self.model.open[session].pop(0))
        self.reads[session].abort_oldest(b"q")
        self._serve()

    @rule(session=SESSIONS)
    def disconnect(self, session: int) -> None:
        self.reads[session].give_back_all()
        for _ in range(len(self.model.open[session])):
            self.model.ready.insert(0, self.model.open[session].pop(0))
            self._serve()

    @rule(session=SESSIONS)
    def take_back(self, session: int) -> None:
        """In the order in which they were taken, before anyone is served."""
        self.model.ready[:0] = self.model.open[session]
        self.model.open[session] = []
        reads = list(self.reads[session]._by_queue.pop(b"q", {}))
        for queue in take_back(reads):
            assert queue.serve(1000)
        self._serve()

    def _session_with_reads(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from([session for session, opened in self.model.open.items() if opened]))

    # Emptying, crashing

    @precondition(lambda self: not self.changes)
    @rule()
    def flush(self) -> None:
        opened = [data for reads in self.model.open.values() for data in reads]
        ticket = self.steps.queues.flush(b"q")
        self.steps.commit_all()
        assert ticket is None or (ticket.done and ticket.error is None)
        self.model.ready.clear()
        self.model.stored = [data for data in self.model.stored if data in opened]

    @rule()
    def finish(self) -> None:
        """In the end, the parts on disk are those of the items on disk."""
        while self.steps.commit():
            self._settle()
        self.steps.committer.sweep_chores()
        while self.steps.commit():
            self._settle()
        path = self.directory / "broker.sqlite"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            if schema.has_parts(connection):
                numbers = connection.execute("SELECT DISTINCT id >> 16 FROM parts ORDER BY 1").fetchall()
                references = connection.execute(
                    "SELECT CAST(substr(data, 1, 10) AS INTEGER) FROM items WHERE typeof(data) = 'text' ORDER BY 1"
                )
                assert numbers == references.fetchall()
                assert connection.execute("SELECT count(*) FROM unfinished").fetchone() == (0,)

    @rule()
    def crash(self) -> None:
        self.steps.crash()
        self.model = Model(ready=list(self.model.stored), stored=self.model.stored)
        self.reads = {session: ClientReads(100) for session in range(3)}
        self.changes = []

    @invariant()
    def counts(self) -> None:
        queue = self.queue
        assert queue.backlog.items == len(self.model.ready)
        assert queue.backlog.bytes == sum(map(len, self.model.ready))
        assert len(queue.open_reads) == sum(map(len, self.model.open.values()))
        assert {session: len(reads) for session, reads in self.reads.items()} == {
            session: len(opened) for session, opened in self.model.open.items()
        }
        assert len(queue.waiters) == len(self.model.waiting)
        assert queue.pending == sum(kind == "put" for kind, _, _ in self.changes)


def test_the_queue_is_what_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in whatever order, the queue is what the model is, and so is what a restart finds."""
    monkeypatch.setattr(backlog_module, "WINDOW_ITEMS", 4)
    monkeypatch.setattr(backlog_module, "_LOW_ITEMS", 2)
    for module in (batch, collection, large_work):
        monkeypatch.setattr(module, "LARGE_BYTES", LARGE_BYTES)
    monkeypatch.setattr(large_data, "PART_BYTES", 5)
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(max_examples=examples(80), stateful_step_count=50, suppress_health_check=list(HealthCheck)),
    )
