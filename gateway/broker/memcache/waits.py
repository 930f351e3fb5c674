"""Commands that wait for items: a blocked get, and a monitor. Knows its client only as an interface."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import OpenItem, ReadMode
from gateway.broker.storage.batch import StoredItem, Ticket


class WaitingClient(Protocol):
    """The connection whose command waits."""

    @property
    def choked(self) -> bool:
        """Whether the client does not read its answers."""

    def may_open(self, queue: PersistentQueue) -> bool:
        """Whether it may have a further open read of the queue."""

    def deliver(self, queue: PersistentQueue, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        """Gives the item to the client."""

    def write_if_many(self) -> None:
        """Writes the answers if they are many, so that a client that does not read them is noticed."""

    def write(self) -> None:
        """Writes the answers that wait for nothing."""

    def finish_wait(self) -> None:
        """The command is over; its last answer follows."""

    def resume(self) -> None:
        """Continues with the next command."""

    def miss(self) -> None:
        """The answer of a get that found nothing."""

    def finish_monitor(self) -> None:
        """The monitor is over."""

    def fail(self, why: str) -> None:
        """Sends SERVER_ERROR and closes the connection."""


class WaitingGet:
    """A get that waits: for an item if `patient`, otherwise only for items on disk."""

    __slots__ = ("_client", "mode", "patient", "queue", "timer")

    def __init__(self, client: WaitingClient, queue: PersistentQueue, mode: ReadMode, *, patient: bool) -> None:
        self._client = client
        self.queue = queue
        self.mode = mode
        self.patient = patient
        self.timer: asyncio.TimerHandle | None = None

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        client = self._client
        client.finish_wait()
        client.deliver(self.queue, item, read, ticket)
        client.resume()

    def nothing(self, error: str | None) -> None:
        client = self._client
        client.finish_wait()
        if error is None:
            client.miss()
            client.resume()
        else:
            client.fail(error)

    def time_out(self) -> None:
        self.queue.waiters.leave(self)
        self.nothing(None)


class Monitoring:
    """A monitor: items as they arrive, each an open read, until `left` is used up or the time is over."""

    __slots__ = ("_client", "left", "mode", "patient", "queue", "timer")

    def __init__(self, client: WaitingClient, queue: PersistentQueue, left: int) -> None:
        self.mode = ReadMode.OPEN
        self.patient = True
        self._client = client
        self.queue = queue
        self.left = left
        self.timer: asyncio.TimerHandle | None = None

    def go_on(self) -> None:
        """Takes ready items and waits for more; ends when its limit is reached."""
        client, queue = self._client, self.queue
        while not client.choked:
            if self.left <= 0 or not client.may_open(queue):
                client.finish_monitor()
                return
            found = queue.read(ReadMode.OPEN)
            if found is None:
                queue.waiters.join(self)
                break
            self._take(*found)
            client.write_if_many()
        client.write()

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        self._take(item, read, ticket)
        self.go_on()

    def _take(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        self.left -= 1
        self._client.deliver(self.queue, item, read, ticket)

    def nothing(self, error: str | None) -> None:
        if error is None:
            self._client.finish_monitor()
        else:
            self._client.fail(error)

    def time_out(self) -> None:
        self.queue.waiters.leave(self)
        self._client.finish_monitor()
