"""Commands that take time: a get that waits, a monitor, and an answer in parts. The session runs no other meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from gateway.broker.memcache.codec import END
from gateway.broker.memcache.session import WRITE_BYTES, Session
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import OpenItem, ReadMode
from gateway.broker.storage.batch import StoredItem, Ticket


class WaitingGet:
    """A get that waits: for an item if `waits_for_items`, otherwise only for items on disk."""

    __slots__ = ("_queue", "_session", "_timer", "mode", "reads", "waits_for_items")

    outlives_eof = False
    blocked = False

    def __init__(self, session: Session, queue: PersistentQueue, mode: ReadMode, *, waits_for_items: bool) -> None:
        self._session = session
        self._queue = queue
        self._timer: asyncio.TimerHandle | None = None
        self.mode = mode
        self.waits_for_items = waits_for_items
        self.reads = session.reads

    def start(self, wait_s: float | None) -> None:
        """Waits at most `wait_s`; with None only until it is certain that the queue has no item."""
        if wait_s is not None:
            self._timer = self._session.broker.loop.call_later(wait_s, self._time_out)
        self._session.begin(self)
        self._queue.waiters.join(self)

    def receive(self, item: StoredItem, _: OpenItem | None, ticket: Ticket | None) -> None:
        session = self._session
        self._finish()
        session.deliver(self._queue.name, item, ticket)
        session.resume()

    def nothing(self, error: str | None) -> None:
        session = self._session
        self._finish()
        if error is None:
            session.miss()
            session.resume()
        else:
            session.fail(error)

    def _time_out(self) -> None:
        self._queue.waiters.leave(self)
        self.nothing(None)

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._session.finish()

    def writable(self) -> None:
        pass

    def cancel(self) -> None:
        self._queue.waiters.leave(self)
        if self._timer is not None:
            self._timer.cancel()


class RunningMonitor:
    """A monitor: items as they arrive, each an open read, until `left` is used up or the time is over."""

    __slots__ = ("_left", "_queue", "_session", "_timer", "mode", "reads", "waits_for_items")

    outlives_eof = False
    blocked = False

    def __init__(self, session: Session, queue: PersistentQueue, left: int) -> None:
        self._session = session
        self._queue = queue
        self._left = left
        self._timer: asyncio.TimerHandle | None = None
        self.mode = ReadMode.OPEN
        self.waits_for_items = True
        self.reads = session.reads

    def start(self, seconds: float) -> None:
        """A command that was sent together with it ends the connection. Source: transcript 6d."""
        session = self._session
        session.begin(self)
        self._timer = session.broker.loop.call_later(seconds, self._time_out)
        self.writable()
        if session.runs(self) and session.decoder.buffered:
            session.answers.forget_ready()
            session.close()

    def writable(self) -> None:
        """Takes ready items and waits for more; ends when its limit is reached."""
        session, queue = self._session, self._queue
        while not session.stream.write_blocked:
            if self._left <= 0 or not self.reads.may_open(queue.name):
                self._finish()
                return
            found = queue.read(ReadMode.OPEN, self.reads)
            if found is None:
                queue.waiters.join(self)
                break
            self._take(*found)
            if session.answers.ready_bytes > WRITE_BYTES:
                session.write()
        session.write()

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        self._take(item, read, ticket)
        self.writable()

    def _take(self, item: StoredItem, _: OpenItem | None, ticket: Ticket | None) -> None:
        self._left -= 1
        self._session.deliver(self._queue.name, item, ticket)

    def nothing(self, error: str | None) -> None:
        if error is None:
            self._finish()
        else:
            self._session.fail(error)

    def _time_out(self) -> None:
        self._queue.waiters.leave(self)
        self._finish()

    def _finish(self) -> None:
        session = self._session
        if self._timer is not None:
            self._timer.cancel()
        session.finish()
        session.answers.add(END)
        session.resume()

    def cancel(self) -> None:
        self._queue.waiters.leave(self)
        if self._timer is not None:
            self._timer.cancel()


class LongAnswer:
    """An answer in parts. Each part is made and sent in its own turn of the loop; others run in between."""

    __slots__ = ("_over", "_parts", "_session")

    outlives_eof = True

    def __init__(self, session: Session, parts: Iterator[bytes]) -> None:
        self._session = session
        self._parts = parts
        self._over = False

    def start(self) -> None:
        self._session.begin(self)
        self._session.broker.loop.call_soon(self.writable)

    def writable(self) -> None:
        """Sends the next part."""
        session = self._session
        if self._over or session.stream.write_blocked:
            return
        part = next(self._parts, None)
        if part is not None:
            session.answers.add(part)
            session.write()
            session.broker.loop.call_soon(self.writable)
            return
        self._over = True
        session.finish()
        session.resume()

    def cancel(self) -> None:
        self._over = True
