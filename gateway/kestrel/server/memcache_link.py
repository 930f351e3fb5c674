"""The link that speaks the memcache protocol: the commands of one server, with the gateway's own errors.

1. If the connection breaks, a put that was certainly not sent is BackendUnavailable, any other is OutcomeUnknown.
2. A server that refuses a put closes its connection. Puts that were sent after it may be stored nevertheless, by
   another commit than the one that failed. They are certainly refused only if the reason was the server's status, which
   it checks before every put.
Source of 2: kestrel-wire.md, "Names and errors": SERVER_ERROR [X].
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from pymemcache.exceptions import (
    MemcacheClientError,
    MemcacheError,
    MemcacheServerError,
    MemcacheUnknownCommandError,
)

from gateway.errors import (
    BackendRefused,
    BackendUnavailable,
    GatewayError,
    JobTooLarge,
    OutcomeUnknown,
    QueueFull,
    ServerUnavailable,
)
from gateway.kestrel.address import Address
from gateway.kestrel.health import BY_STATUS, Health
from gateway.kestrel.link import Answered, Put, Report, Sending
from gateway.kestrel.server.queue_gets import QueueGets
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Command, ConnectionLostError
from gateway.kestrel.wire.failures import not_asked, perhaps_done, says_too_large
from gateway.kestrel.wire.stats import names_in_stats, parse_dump, parse_open_reads, parse_stats
from gateway.queue_stats import QueueStats

BATCH_ITEMS: Final = 64
BATCH_BYTES: Final = 256 * 1024
KEYS_BYTES: Final = 512
"""Bytes of names in one question for statistics: ten to fifty queues, whose answer takes about 1 ms to read."""
_STATUSES = ("readonly", "read-only", "read only", "quiescent")


class MemcacheLink(Server):
    """Implements gateway.kestrel.link.ServerLink."""

    batch_items = BATCH_ITEMS
    batch_bytes = BATCH_BYTES

    def start_store(self, puts: Sequence[Put], report: Report) -> None:
        """See ServerLink. Errors: QueueFull, JobTooLarge, BackendUnavailable, BackendRefused, OutcomeUnknown."""
        storing = self._loop.create_task(MemcacheLink.store(self, puts, report))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)

    async def store(self, puts: Sequence[Put], report: Report) -> None:
        """See ServerLink."""
        outcomes: list[bool | MemcacheServerError] = []
        sent = [0]
        failure: BaseException | None = None
        try:
            await self.commands.run(KestrelClient.store_many, puts, outcomes, sent)
        except (BackendUnavailable, ConnectionLostError, MemcacheError) as error:
            failure = error
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            refusals = [_put_error(self.address, index, outcomes, sent[0], failure) for index in range(len(puts))]
            for refusal in refusals:
                if refusal is not None:
                    refusal.__cause__ = failure
            report(range(len(puts)), refusals)
            if outcomes and isinstance(outcomes[-1], MemcacheServerError) and not says_too_large(outcomes[-1]):
                self.look()

    def queue(self, key: str, tenant: str, sending: Sending, answered: Answered) -> QueueGets:
        """See ServerLink."""
        return QueueGets(self, key, tenant, self._counters, sending, answered)

    def start_take(self, *_: object) -> Callable[[], None] | None:
        """See ServerLink. A take needs a connection of its own, for which it may have to wait."""
        return None

    async def peek(self, key: str) -> bytes | None:
        """See ServerLink."""
        data: bytes | None = await self.commands.ask(KestrelClient.peek, key)
        return None if data is None else bytes(data)

    async def create(self, key: str) -> None:
        """See ServerLink. Source: kestrel-wire.md, "Set": a peek creates, durably."""
        await self.peek(key)

    async def names(self) -> Collection[str]:
        """See ServerLink."""
        try:
            if self.health.capabilities is None or self.health.capabilities.dump_stats:
                try:
                    names: list[str] = await self.commands.run(KestrelClient.queue_names)
                except (MemcacheUnknownCommandError, MemcacheClientError):
                    pass
                else:
                    return names
            return names_in_stats(await self.commands.ask(KestrelClient.all_stats))
        except (ConnectionLostError, MemcacheError) as error:
            raise not_asked(error, self.address) from error

    async def stats(self, keys: Sequence[str]) -> dict[str, QueueStats]:
        """See ServerLink. If the server can be asked for some queues, the questions have KEYS_BYTES of names at a time,
        so that no answer is long."""
        try:
            if self.health.capabilities is None or self.health.capabilities.dump_stats:
                try:
                    found: dict[str, QueueStats] = {}
                    for some in _some(keys):
                        found |= parse_dump(await self.commands.run(KestrelClient.dump_stats, *some))
                except (MemcacheUnknownCommandError, MemcacheClientError):
                    pass
                else:
                    return found
            return parse_stats(await self.commands.ask(KestrelClient.all_stats), keys)
        except (ConnectionLostError, MemcacheError, ValueError) as error:
            raise not_asked(error, self.address) from error

    async def may_have_dropped(self, key: str) -> bool:
        """See ServerLink. False if the server has deleted queues by itself (`maxQueueAge`): it does not say which."""
        if not self.health.answers or self.health.capabilities is None or not self.health.capabilities.dump_stats:
            return False
        try:
            counts = parse_open_reads(await self.commands.run(KestrelClient.dump_stats, key), key)
            if counts is None or counts.open_reads:
                return False
            aged_out: str | None = await self.commands.run(KestrelClient.stat, "queue_expires")
            return aged_out == "0"
        except (BackendUnavailable, ConnectionLostError, MemcacheError, ValueError):
            return False

    async def deletes_idle_queues(self) -> bool:
        """See ServerLink. Kestrel counts them in `queue_expires`."""
        try:
            aged_out: str | None = await self.commands.run(KestrelClient.stat, "queue_expires")
        except (BackendUnavailable, ConnectionLostError, MemcacheError):
            return False
        return aged_out not in (None, "0")

    async def flush(self, key: str) -> None:
        """See ServerLink."""
        await self._change(KestrelClient.flush, key)

    async def delete(self, key: str) -> None:
        """See ServerLink."""
        await self._change(KestrelClient.drop, key)

    async def set_status(self, status: Health) -> None:
        """See ServerLink."""
        try:
            await self.commands.run(KestrelClient.set_status, status.value)
            said = BY_STATUS[await self.commands.ask(KestrelClient.ask_status)]
        except BackendRefused:
            raise
        except (BackendUnavailable, ConnectionLostError, MemcacheError) as error:
            failure = perhaps_done(error, self.address)
            if type(failure) is BackendUnavailable:
                failure = ServerUnavailable(failure.detail)
            raise failure from error
        self.health.has_said(said)
        if said is not status:
            raise BackendRefused(f"{self.address.marked} stays {said.value}: an earlier change is still in progress")

    async def _change(self, command: Command, key: str) -> None:
        try:
            await self.commands.run(command, key)
        except (ConnectionLostError, MemcacheError) as error:
            raise perhaps_done(error, self.address) from error


def _put_error(
    address: Address,
    index: int,
    outcomes: Sequence[bool | MemcacheServerError],
    sent: int,
    failure: BaseException | None,
) -> GatewayError | None:
    """The error of the put at `index`; None if it is stored."""
    if index < len(outcomes):
        outcome = outcomes[index]
        if outcome is True:
            return None
        if outcome is False:
            return QueueFull("Kestrel did not store the job: the queue is full, or the job is too large for it")
        assert isinstance(outcome, MemcacheServerError)
        if says_too_large(outcome):
            return JobTooLarge("the job is larger than the queue allows (max_item_bytes)")
        return not_asked(outcome, address)
    if failure is None:
        return OutcomeUnknown(f"the job was sent to {address.marked}, but no valid answer came")
    if index >= sent:
        return not_asked(failure, address)
    if outcomes and isinstance(outcomes[-1], MemcacheServerError) and _by_status(outcomes[-1]):
        return not_asked(outcomes[-1], address)
    if index == sent - 1:
        return perhaps_done(failure, address)
    return OutcomeUnknown(f"the job was sent to {address.marked}, but no valid answer came")


def _by_status(refusal: MemcacheServerError) -> bool:
    """Whether the server refused because of its status, not because of the item (rule 2)."""
    words = str(refusal.args[0] if refusal.args else "").lower()
    return any(status in words for status in _STATUSES)


def _some(keys: Sequence[str]) -> Iterator[list[str]]:
    """The keys in groups of KEYS_BYTES; one empty group if there are none, which asks for all queues."""
    group: list[str] = []
    size = 0
    for key in keys:
        if group and size + len(key) > KEYS_BYTES:
            yield group
            group, size = [], 0
        group.append(key)
        size += len(key) + 1
    yield group
