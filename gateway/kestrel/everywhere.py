"""What is asked of all servers at once: numbers, peeks, flushes and deletes, merged, with how many took part.

Owns how answers are merged. A server that gives no answer is told by the coverage, not by an error, unless none does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pymemcache.exceptions import MemcacheClientError, MemcacheError, MemcacheUnknownCommandError

from gateway.errors import BackendUnavailable, OutcomeUnknown
from gateway.kestrel.codec import KestrelClient
from gateway.kestrel.connection import ConnectionLostError
from gateway.kestrel.health import Coverage
from gateway.kestrel.server import Server
from gateway.kestrel.stats import QueueStats, parse_dump, parse_stats
from gateway.kestrel.trouble import not_asked, perhaps_done


@dataclass(frozen=True, slots=True)
class Survey:
    """Every queue by its key, added up; and by the server's name."""

    queues: dict[str, QueueStats]
    servers: dict[str, dict[str, QueueStats]]
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Peeked:
    """A head item, or None where the servers that were asked have none."""

    data: bytes | None
    coverage: Coverage


async def survey(servers: Sequence[Server], *keys: str) -> Survey:
    """All queues, or those of these keys where servers can be asked for some.

    Raises: BackendUnavailable when none answers.
    """
    answers, coverage = await _ask(servers, partial(_stats, keys))
    total: dict[str, QueueStats] = {}
    for _, queues in answers:
        for key, stats in queues.items():
            total[key] = total[key] + stats if key in total else stats
    return Survey(total, {server.address.name: queues for server, queues in answers}, coverage)


async def peek(servers: Sequence[Server], key: str) -> Peeked:
    """The head item of one server that has some. Raises: BackendUnavailable when none answers."""
    answers, coverage = await _ask(
        [each for each in servers if each.reads] or servers, lambda server: server.ask(KestrelClient.peek, key)
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


async def _ask(
    servers: Sequence[Server], question: Callable[[Server], Awaitable[Any]]
) -> tuple[list[tuple[Server, Any]], Coverage]:
    """The answers that came, all servers asked at the same time: those that do not answer anyway only if all are so."""
    asked = [server for server in servers if server.answers] or servers
    answers = await asyncio.gather(*(question(server) for server in asked), return_exceptions=True)
    good: list[tuple[Server, Any]] = []
    failure: BackendUnavailable = BackendUnavailable("no Kestrel server is known yet")
    unknown: OutcomeUnknown | None = None
    for server, answer in zip(asked, answers, strict=True):
        if isinstance(answer, OutcomeUnknown):
            unknown = answer
        elif isinstance(answer, BackendUnavailable):
            failure = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            good.append((server, answer))
    if unknown is not None:
        raise unknown
    if not good:
        raise failure
    return good, Coverage(len(good), len(servers))


async def _stats(keys: Sequence[str], server: Server) -> dict[str, QueueStats]:
    capabilities = server.capabilities
    try:
        if capabilities is None or capabilities.dump_stats:
            try:
                return parse_dump(await server.run(KestrelClient.dump_stats, *keys))
            except (MemcacheUnknownCommandError, MemcacheClientError):
                pass
        return parse_stats(await server.ask(KestrelClient.all_stats))
    except (ConnectionLostError, MemcacheError, ValueError) as error:
        raise not_asked(error, server.address) from error
