"""Asks one server for its status at intervals, and so detects whether it answers at all.

Owns the times of the questions, and the deadline of each. The server decides what an answer, or a missing one, means.

A server that freezes between two questions is detected by the next one, even if it is not used: the time until the next
question (LOOK_PART of the command timeout) and the time for its answer are together below the command timeout. Blocked
gets cannot detect it: a frozen server looks like an empty queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from gateway.kestrel.health import BY_STATUS, Health
from gateway.kestrel.wire.capabilities import Capabilities
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Connection, State

LOOK_PART: Final = 0.45
EVERY_S: Final = 5.0
AGAIN_S: Final = 1.0
"""The interval while it answers and is not UP."""
SOON_S: Final = 0.02
"""The interval after a question without an answer, while it counts as answering."""


class Lender(Protocol):
    """The server, as far as it is needed here."""

    @property
    def answers(self) -> bool: ...
    @property
    def state(self) -> Health: ...
    @property
    def capabilities(self) -> Capabilities | None: ...
    def checkout(self) -> Connection | None: ...
    def want(self) -> asyncio.Future[Connection]: ...
    def release(self, connection: Connection) -> None: ...


class Look:
    """Asks for `status`, or for `version` on servers without it. said: called with each answer."""

    def __init__(self, server: Lender, command_timeout_s: float, said: Callable[[Health], None]) -> None:
        self._server = server
        self._part_s = LOOK_PART * command_timeout_s
        self._said = said
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._looking = False

    def later(self) -> None:
        """Schedules the next question; called again at each change of the server's state."""
        unwell = self._server.answers and self._server.state is not Health.UP
        self._in(max(SOON_S, min(AGAIN_S if unwell else EVERY_S, self._part_s)))

    def close(self) -> None:
        """Asks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def now(self) -> None:
        """Asks at once, unless a question is in progress. The caller does not wait for the answer."""
        if self._looking or not self._server.answers:
            return
        self._looking = True
        if (connection := self._server.checkout()) is not None:
            self._ask(connection)
        else:
            self._server.want().add_done_callback(self._lent)

    def _in(self, delay_s: float) -> None:
        self.close()
        self._timer = self._loop.call_later(delay_s, self._due)

    def _due(self) -> None:
        self.later()
        self.now()

    def _lent(self, future: asyncio.Future[Connection]) -> None:
        if not future.cancelled() and future.exception() is None and future.result().state is State.IDLE:
            self._ask(future.result())
        else:
            self._failed()

    def _ask(self, connection: Connection) -> None:
        capabilities = self._server.capabilities
        by_status = capabilities is None or capabilities.status
        command = KestrelClient.ask_status if by_status else KestrelClient.ask_version
        connection.start(partial(self._answered, connection, by_status), self._part_s, command)

    def _answered(
        self, connection: Connection, by_status: bool, answer: str | None, error: BaseException | None
    ) -> None:
        if error is not None or answer is None:
            self._failed()
            return
        self._looking = False
        self._server.release(connection)
        if by_status:
            self._said(BY_STATUS[answer])

    def _failed(self) -> None:
        self._looking = False
        if self._server.answers:
            self._in(SOON_S)  # a server that refuses closes the connection that was used last
