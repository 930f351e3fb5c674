"""Questions to all servers at once: statistics, peeks, flushes and deletes, merged, with how many servers took part.

Owns how answers are merged. A server without an answer is shown by the coverage; it is an error only if no server
answers, or if a change may have taken effect on a server that did not answer. Questions wait for other servers only
briefly after the first answer; changes wait for all servers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

from gateway.coverage import Coverage, Covered
from gateway.errors import BackendUnavailable, OutcomeUnknown
from gateway.kestrel.link import ServerLink
from gateway.names.namespace import FANOUT
from gateway.queue_stats import MergedStats, QueueStats

T = TypeVar("T")

PATIENCE_S: Final = 1.0
"""After the first answer to a question, the other servers are waited for this long."""
HURRY_S: Final = 0.25
"""The same, for a question that every user of a new queue waits for."""


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
        self._named: dict[ServerLink, frozenset[str]] = {}

    async def keys(self, servers: Sequence[ServerLink]) -> frozenset[str]:
        """The keys of every queue, as far as is known. Raises BackendUnavailable if no server answers."""
        await _ask(servers, self._name, self._late, HURRY_S)
        self._named = {server: keys for server, keys in self._named.items() if server in servers}
        return frozenset().union(*self._named.values())

    async def _name(self, server: ServerLink) -> None:
        self._named[server] = frozenset(await server.names())


async def queue_stats(servers: Sequence[ServerLink], late: LateAnswers, *keys: str) -> MergedStats:
    """All queues, or only those with the keys if servers can be asked for some.

    Raises BackendUnavailable if no server answers.
    """
    answers, coverage = await _ask(servers, lambda server: server.stats(keys), late)
    total: dict[str, QueueStats] = {}
    for _, queues in answers:
        for key, stats in queues.items():
            total[key] = total[key] + stats if key in total else stats
    return MergedStats(total, {server.address.name: queues for server, queues in answers}, coverage)


async def missing(servers: Sequence[ServerLink], late: LateAnswers, key: str) -> Coverage | None:
    """None if some server has the queue: the first that says so is enough. Otherwise how many say that they have not.

    Raises BackendUnavailable if no server answers.
    """

    async def has(server: ServerLink) -> bool:
        return key in await server.stats([key])

    answers, coverage = await _ask(servers, has, late, enough=bool)
    return None if any(found for _, found in answers) else coverage


async def peek(servers: Sequence[ServerLink], late: LateAnswers, key: str) -> Covered[bytes | None]:
    """The head item of one server that has one. Raises BackendUnavailable if no server answers."""

    async def look(server: ServerLink) -> bytes | None:
        return await server.peek(key) if await _may_name(server, key) else None

    answers, coverage = await _ask([each for each in servers if each.health.reads] or servers, look, late)
    data = next((item for _, item in answers if item is not None), None)
    return Covered(data, Coverage(coverage.asked, len(servers)))


async def _may_name(server: ServerLink, key: str) -> bool:
    """Whether a command may name the queue: it would create a fanout child that the server does not have."""
    return FANOUT not in key or key in await server.stats([key])


async def flush(servers: Sequence[ServerLink], key: str) -> Coverage:
    """Empties the queue on every server that answers and has it. Raises as `change`."""

    async def empty(server: ServerLink) -> None:
        if await _may_name(server, key):
            await server.flush(key)

    return await change(servers, empty)


async def change(servers: Sequence[ServerLink], command: Callable[[ServerLink], Coroutine[Any, Any, Any]]) -> Coverage:
    """Runs a command that changes a queue on every server that answers.

    Raises BackendUnavailable if no server did it, OutcomeUnknown if one got the command and did not answer.
    """
    _, coverage = await _ask(servers, command)
    return coverage


async def ask(
    servers: Sequence[ServerLink], question: Callable[[ServerLink], Coroutine[Any, Any, T]]
) -> tuple[list[T], Coverage]:
    """The answer of each server that answers; all are waited for. Raises as `change`, and what `question` raises."""
    answers, coverage = await _ask(servers, question)
    return [answer for _, answer in answers], coverage


async def _ask(
    servers: Sequence[ServerLink],
    question: Callable[[ServerLink], Coroutine[Any, Any, Any]],
    late: LateAnswers | None = None,
    patience_s: float = PATIENCE_S,
    *,
    enough: Callable[[Any], bool] | None = None,
) -> tuple[list[tuple[ServerLink, Any]], Coverage]:
    """The answers. Asks all servers at once. Servers known to be down are asked only if every server is down.

    late: once one server has answered, questions without an answer after `patience_s` are left there, or at once if the
    answer is `enough`; None: all are waited for. Cancelled: every question is cancelled.
    """
    asked = {
        asyncio.create_task(question(server)): server
        for server in [server for server in servers if server.health.answers] or servers
    }
    try:
        pending = await _answered(asked, None if late is None else patience_s, enough)
    except asyncio.CancelledError:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        raise
    if late is not None:
        late.add(pending)
    good: list[tuple[ServerLink, Any]] = []
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


async def _answered(
    asked: Collection[asyncio.Task[Any]], patience_s: float | None, enough: Callable[[Any], bool] | None
) -> set[asyncio.Task[Any]]:
    """Returns those that are not done `patience_s` after the first good answer; None: waits until all are done."""
    pending, until_s = set(asked), math.inf
    loop = asyncio.get_running_loop()
    while pending:
        left_s = None if until_s is math.inf else max(0.0, until_s - loop.time())
        done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            break
        good = [task for task in done if task.exception() is None]
        if enough is not None and any(enough(task.result()) for task in good):
            break
        if patience_s is not None and until_s is math.inf and good:
            until_s = loop.time() + patience_s
    return pending
