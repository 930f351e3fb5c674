"""Questions to all servers at once: statistics, peeks, flushes and deletes, merged, with how many servers took part.

Owns how answers are merged. A server without an answer is shown by the coverage; it is an error only if no server
answers. Questions wait for other servers only briefly after the first answer; changes wait for all servers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, Final

from pymemcache.exceptions import MemcacheClientError, MemcacheError, MemcacheUnknownCommandError

from gateway.errors import BackendUnavailable, OutcomeUnknown
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import ConnectionLostError
from gateway.kestrel.wire.failures import not_asked, perhaps_done
from gateway.kestrel.wire.stats import names_in_stats, parse_aside, parse_dump, parse_stats
from gateway.survey import Coverage, Peeked, QueueStats, Survey

PATIENCE_S: Final = 1.0
"""After the first answer to a question, the other servers are waited for this long."""
HURRY_S: Final = 0.25
"""The same, for a question that every user of a new queue waits for."""


KEYS_BYTES: Final = 2048
"""Bytes of names in one question for statistics: about a hundred queues."""


class LateAnswers:
    """Questions that are no longer waited for. They end by themselves; that is how a silent server is detected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Keeps the tasks until they end, however they end."""
        self._tasks.update(tasks)
        for task in tasks:
            task.add_done_callback(self._over)

    async def close(self) -> None:
        """Returns when none is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


class QueueNames:
    """The names of all queues. For a silent server, the names from its last answer count."""

    def __init__(self, late: LateAnswers) -> None:
        self._late = late
        self._named: dict[Server, frozenset[str]] = {}

    async def keys(self, servers: Sequence[Server]) -> frozenset[str]:
        """The keys of every queue, as far as is known. Raises BackendUnavailable if no server answers."""
        await _ask(servers, self._name, self._late, HURRY_S)
        self._named = {server: keys for server, keys in self._named.items() if server in servers}
        return frozenset().union(*self._named.values())

    async def _name(self, server: Server) -> None:
        self._named[server] = frozenset(await _names(server))


async def survey(servers: Sequence[Server], late: LateAnswers, *keys: str) -> Survey:
    """All queues, or only those with the keys if servers can be asked for some.

    Raises BackendUnavailable if no server answers.
    """
    answers, coverage = await _ask(servers, partial(_stats, keys), late)
    total: dict[str, QueueStats] = {}
    for _, queues in answers:
        for key, stats in queues.items():
            total[key] = total[key] + stats if key in total else stats
    return Survey(total, {server.address.name: queues for server, queues in answers}, coverage)


async def peek(servers: Sequence[Server], late: LateAnswers, key: str) -> Peeked:
    """The head item of one server that has one. Raises BackendUnavailable if no server answers."""
    answers, coverage = await _ask(
        [each for each in servers if each.reads] or servers, lambda server: server.ask(KestrelClient.peek, key), late
    )
    data = next((bytes(item) for _, item in answers if item is not None), None)
    return Peeked(data, Coverage(coverage.asked, len(servers)))


async def change(servers: Sequence[Server], command: Any, key: str) -> Coverage:
    """Runs a command that changes the queue on every server that answers.

    Raises BackendUnavailable if no server did it, OutcomeUnknown if one got the command and did not answer.
    """

    async def run(server: Server) -> None:
        try:
            await server.run(command, key)
        except (ConnectionLostError, MemcacheError) as error:
            raise perhaps_done(error, server.address) from error

    _, coverage = await _ask(servers, run)
    return coverage


async def may_have_dropped(server: Server, key: str) -> bool:
    """Whether a `delete` may have removed open reads of the queue: the server has no open read of it now.

    False if the server does not tell, or has deleted queues by itself (`maxQueueAge`), because it does not say which.
    """
    if not server.answers or server.capabilities is None or not server.capabilities.dump_stats:
        return False
    try:
        aside = parse_aside(await server.run(KestrelClient.dump_stats, key), key)
        if aside is None or aside.open_reads:
            return False
        aged_out: str | None = await server.run(KestrelClient.stat, "queue_expires")
        return aged_out == "0"
    except (BackendUnavailable, ConnectionLostError, MemcacheError, ValueError):
        return False


async def _ask(
    servers: Sequence[Server],
    question: Callable[[Server], Coroutine[Any, Any, Any]],
    late: LateAnswers | None = None,
    patience_s: float = PATIENCE_S,
) -> tuple[list[tuple[Server, Any]], Coverage]:
    """The answers. All servers are asked at the same time, servers that are known to be down only if all are.

    late: once one server has answered, questions without an answer after `patience_s` are left there; None: all are
    waited for. Cancelled: every question is cancelled.
    """
    asked = {
        asyncio.create_task(question(server)): server
        for server in [server for server in servers if server.answers] or servers
    }
    try:
        pending = await _answered(asked, None if late is None else patience_s)
    except asyncio.CancelledError:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        raise
    if late is not None:
        late.add(pending)
    good: list[tuple[Server, Any]] = []
    failure: BackendUnavailable = BackendUnavailable("no Kestrel server is known yet")
    unknown: OutcomeUnknown | None = None
    for task, server in asked.items():
        if task in pending:
            continue
        if (error := task.exception()) is None:
            good.append((server, task.result()))
        elif isinstance(error, OutcomeUnknown):
            unknown = error
        elif isinstance(error, BackendUnavailable):
            failure = error
        else:
            raise error
    if unknown is not None:
        raise unknown
    if not good:
        raise failure
    return good, Coverage(len(good), len(servers))


async def _answered(asked: Collection[asyncio.Task[Any]], patience_s: float | None) -> set[asyncio.Task[Any]]:
    """Returns those that are not done `patience_s` after the first good answer; None: waits until all are done."""
    pending, until_s = set(asked), math.inf
    loop = asyncio.get_running_loop()
    while pending:
        left_s = None if until_s is math.inf else max(0.0, until_s - loop.time())
        done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            break
        if patience_s is not None and until_s is math.inf and any(task.exception() is None for task in done):
            until_s = loop.time() + patience_s
    return pending


async def _names(server: Server) -> Collection[str]:
    """The name of every queue on the server. Raises BackendUnavailable."""
    try:
        if server.capabilities is None or server.capabilities.dump_stats:
            try:
                names: list[str] = await server.run(KestrelClient.queue_names)
            except (MemcacheUnknownCommandError, MemcacheClientError):
                pass
            else:
                return names
        return names_in_stats(await server.ask(KestrelClient.all_stats))
    except (ConnectionLostError, MemcacheError) as error:
        raise not_asked(error, server.address) from error


async def _stats(keys: Sequence[str], server: Server) -> dict[str, QueueStats]:
    """The statistics of these queues, or of all. If the server can be asked for some, the questions have KEYS_BYTES of
    names at a time, so that no answer is long."""
    capabilities = server.capabilities
    try:
        if capabilities is None or capabilities.dump_stats:
            try:
                found: dict[str, QueueStats] = {}
                for some in _some(keys):
                    found |= parse_dump(await server.run(KestrelClient.dump_stats, *some))
            except (MemcacheUnknownCommandError, MemcacheClientError):
                pass
            else:
                return found
        return parse_stats(await server.ask(KestrelClient.all_stats), keys)
    except (ConnectionLostError, MemcacheError, ValueError) as error:
        raise not_asked(error, server.address) from error


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
