"""What is asked of all servers at once: numbers, peeks, flushes and deletes, merged, with how many took part.

Owns how answers are merged. A server that gives no answer is told by the coverage, not by an error, unless none does.
Questions wait for no server much longer than for the first one that answers; what changes something waits for all.
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
"""Once one server has answered a question, the others are waited for so long."""
HURRY_S: Final = 0.25
"""The same, for a question that every user of a new queue waits for."""


KEYS_BYTES: Final = 2048
"""Names in one question for figures: of about a hundred queues."""


class LateAnswers:
    """Questions that are not waited for any more. They end in their own time: by that a silent server is found out."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Keeps the tasks until they end; how they end is nobody's concern."""
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
    """Which queues there are. A server that is silent counts with those that it named last."""

    def __init__(self, late: LateAnswers) -> None:
        self._late = late
        self._named: dict[Server, frozenset[str]] = {}

    async def keys(self, servers: Sequence[Server]) -> frozenset[str]:
        """The keys of every queue, as far as is known. Raises: BackendUnavailable when none answers."""
        await _ask(servers, self._name, self._late, HURRY_S)
        self._named = {server: keys for server, keys in self._named.items() if server in servers}
        return frozenset().union(*self._named.values())

    async def _name(self, server: Server) -> None:
        self._named[server] = frozenset(await _names(server))


async def survey(servers: Sequence[Server], late: LateAnswers, *keys: str) -> Survey:
    """All queues, or those of these keys where servers can be asked for some.

    Raises: BackendUnavailable when none answers.
    """
    answers, coverage = await _ask(servers, partial(_stats, keys), late)
    total: dict[str, QueueStats] = {}
    for _, queues in answers:
        for key, stats in queues.items():
            total[key] = total[key] + stats if key in total else stats
    return Survey(total, {server.address.name: queues for server, queues in answers}, coverage)


async def peek(servers: Sequence[Server], late: LateAnswers, key: str) -> Peeked:
    """The head item of one server that has some. Raises: BackendUnavailable when none answers."""
    answers, coverage = await _ask(
        [each for each in servers if each.reads] or servers, lambda server: server.ask(KestrelClient.peek, key), late
    )
    data = next((bytes(item) for _, item in answers if item is not None), None)
    return Peeked(data, Coverage(coverage.asked, len(servers)))


async def change(servers: Sequence[Server], command: Any, key: str) -> Coverage:
    """Runs a command that changes the queue on every server that answers.

    Raises: BackendUnavailable when none did it; OutcomeUnknown when one was sent it and did not answer.
    """

    async def run(server: Server) -> None:
        try:
            await server.run(command, key)
        except (ConnectionLostError, MemcacheError) as error:
            raise perhaps_done(error, server.address) from error

    _, coverage = await _ask(servers, run)
    return coverage


async def may_have_dropped(server: Server, key: str) -> bool:
    """Whether a `delete` may have taken along what was set aside of the queue: the server holds nothing of it now.

    False where the server does not tell, or has deleted queues by itself (`maxQueueAge`): it would not say which.
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
    """The answers that came, all servers asked at the same time: those that do not answer anyway only if all are so.

    late: where one has answered, what the others have not answered after `patience_s` is left there; None: all are
    waited for. Cancelled: every question is.
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
    """Returns those that are not done when `patience_s` have passed since the first good answer; None: when all are."""
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
    """The figures of these queues, or of all. Where the server can be asked for some they come KEYS_BYTES of names at a
    time, so that no answer is long."""
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
    """The keys in groups of KEYS_BYTES; one empty group where there are none, which asks for all queues."""
    group: list[str] = []
    size = 0
    for key in keys:
        if group and size + len(key) > KEYS_BYTES:
            yield group
            group, size = [], 0
        group.append(key)
        size += len(key) + 1
    yield group
