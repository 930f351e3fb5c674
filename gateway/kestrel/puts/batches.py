"""The puts of one server, gathered: those that come in the same turn of the event loop travel together.

Under load a turn brings many requests. One connection, one write and one read for all of them cost a third of what
they cost one by one, and the server commits them together. A put that comes alone goes alone.

While the server stores UNDER_WAY such batches, what comes is gathered further, until one of them is answered but no
longer than GATHER_S: one batch is being stored, one lies ready behind it, and a third would only be smaller.

1. Puts are sent in the order they came; each has an outcome of its own.
2. When the connection breaks, a put that was surely not sent is BackendUnavailable, any other OutcomeUnknown.
3. A server that refuses closes its connection. What was sent behind a refused put may be stored all the same, by
   another commit than the one that failed; it was surely refused only where the server's status was the reason, since
   that is looked at before every put.
4. A server that loses or changes empty items is sent none, nor is one that has not said yet what it is.
Source of 3: kestrel-wire.md, "Names and errors": SERVER_ERROR [X]. Of 4: "Servers that imitate it", 0-byte item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pymemcache.exceptions import MemcacheError, MemcacheServerError

from gateway.errors import BackendUnavailable, GatewayError, JobTooLarge, NotSupported, OutcomeUnknown, QueueFull
from gateway.kestrel.address import Address
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import KestrelClient, Put
from gateway.kestrel.wire.connection import ConnectionLostError
from gateway.kestrel.wire.failures import not_asked, perhaps_done, says_too_large

STALLED_S = 0.25
UNDER_WAY = 2
GATHER_S = 0.002
_STATUSES = ("readonly", "read-only", "read only", "quiescent")


class Writer:
    """Stores items on one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Put, asyncio.Future[None]]] = []
        self._sending: dict[asyncio.Task[None], float] = {}
        self._gathered: asyncio.Handle | None = None
        self._leaving = False

    @property
    def server(self) -> Server:
        """Whose writer it is."""
        return self._server

    @property
    def stalled(self) -> bool:
        """Whether an answer is missing for longer than a server that is well would take."""
        for began_s in self._sending.values():
            return self._loop.time() - began_s > STALLED_S
        return False

    def put(self, key: str, data: bytes, expiry: int) -> asyncio.Future[None]:
        """A future that is done when the item is stored.

        Its exception: QueueFull; BackendUnavailable when nothing was sent, BackendRefused when the server said no;
        NotSupported when it keeps no such item; JobTooLarge; OutcomeUnknown. Cancelled: the item may be stored.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self._leaving:
            future.set_exception(
                BackendUnavailable(f"{self._server.address.marked} was removed from the configuration")
            )
            return future
        if not data and (refusal := self._no_empty_items()) is not None:
            future.set_exception(refusal)
            return future
        self._waiting.append(((key, data, expiry), future))
        if self._gathered is None:
            full = len(self._sending) >= UNDER_WAY
            self._gathered = self._loop.call_later(GATHER_S, self._flush) if full else self._loop.call_soon(self._flush)
        return future

    def _no_empty_items(self) -> GatewayError | None:
        """Why the server is not sent an empty item; None where it may be (rule 4)."""
        capabilities = self._server.capabilities
        if capabilities is None:
            return self._server.error
        if capabilities.empty_items:
            return None
        return NotSupported(
            f"an empty job is not stored: {capabilities.software} loses or changes it; send at least one byte"
        )

    async def close(self) -> None:
        """Takes no more puts, and returns when every one has its outcome."""
        self._leaving = True
        while self._waiting or self._sending:
            await asyncio.gather(*self._sending, return_exceptions=True)
            await asyncio.sleep(0)

    def _flush(self) -> None:
        assert self._gathered is not None
        self._gathered.cancel()
        self._gathered = None
        waiting, self._waiting = self._waiting, []
        task = self._loop.create_task(self._send(waiting))
        self._sending[task] = self._loop.time()
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        if self._waiting:
            self._flush()

    async def _send(self, waiting: list[tuple[Put, asyncio.Future[None]]]) -> None:
        puts = [put for put, _ in waiting]
        outcomes: list[bool | MemcacheServerError] = []
        sent = [0]
        failure: BaseException | None = None
        try:
            await self._server.run(KestrelClient.store_many, puts, outcomes, sent)
        except (BackendUnavailable, ConnectionLostError, MemcacheError) as error:
            failure = error
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            for index, (_, future) in enumerate(waiting):
                if future.done():
                    continue
                trouble = _trouble(self._server.address, index, outcomes, sent[0], failure)
                if trouble is None:
                    future.set_result(None)
                else:
                    trouble.__cause__ = failure
                    future.set_exception(trouble)
            if outcomes and isinstance(outcomes[-1], MemcacheServerError) and not says_too_large(outcomes[-1]):
                self._server.look()


def _trouble(
    address: Address,
    index: int,
    outcomes: Sequence[bool | MemcacheServerError],
    sent: int,
    failure: BaseException | None,
) -> GatewayError | None:
    """What became of the put at `index`; None: it is stored."""
    if index < len(outcomes):
        outcome = outcomes[index]
        if outcome is True:
            return None
        if outcome is False:
            return QueueFull("Kestrel did not store the job: the queue is full, or the job too large for it")
        assert isinstance(outcome, MemcacheServerError)
        if says_too_large(outcome):
            return JobTooLarge("the job is larger than the largest item that its queue takes (max_item_bytes)")
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
    """Whether the server refused because of how it stands, and not because of what it was sent (rule 3)."""
    words = str(refusal.args[0] if refusal.args else "").lower()
    return any(status in words for status in _STATUSES)
