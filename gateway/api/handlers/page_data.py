"""What the page at `/ui/` reads in addition to the contract: who calls, the live figures, and the last hour of a queue.

These paths belong to the page and change with it; other clients use the contract.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

import gateway
from gateway.api.access.caller import Caller
from gateway.api.exchange import NO_STORE, Answer, Call, chunks, json_answer
from gateway.api.response.listing import QueueFigures, queue_filter
from gateway.api.specification import Specification
from gateway.delivery.dead_letters.store import dead_key
from gateway.delivery.figures.full import FullQueues
from gateway.delivery.figures.gatherer import Gatherer, Round
from gateway.delivery.figures.history import History
from gateway.delivery.pause import Pauses
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.management import QueueInfo, listed_queue, queue_info
from gateway.errors import GatewayError, InvalidParameter
from gateway.fairness.turns import Turns
from gateway.settings import Settings

SPARKS: Final = 40
"""Pairs of rates for the small chart of a queue."""
ROWS_A_CHUNK: Final = 200
MAX_ROWS: Final = 5000
"""Queues in one stream; the ones with the most jobs are shown."""
MAX_FIELDS: Final = 20

FigureRow = dict[str, Any]
_NOT_BY_SERVER: Final = frozenset({"queue", "reachable", "backlog"})
_UNTOLD: Final = frozenset({"at", "age_s"})
"""Members that differ in every round."""


class FigureRows:
    """The figures of queues as the page shows them: from the newest round, with rates and marks."""

    def __init__(self, catalog: Catalog, history: History, pauses: Pauses, full: FullQueues) -> None:
        self._catalog = catalog
        self._history = history
        self._pauses = pauses
        self._full = full

    def of(
        self, tenant: str, found: Round, wanted: Callable[[QueueInfo], bool]
    ) -> Iterable[tuple[str, QueueInfo] | None]:
        """The keys and figures of the tenant's queues that are wanted, and None for every other queue: each is a step
        of work."""
        for key, stats in found.queues.items():
            letters = found.queues.get(dead_key(self._catalog, key) or "")
            info = listed_queue(self._catalog, tenant, key, stats, letters)
            yield (key, info) if info is not None and wanted(info) else None

    def row(self, tenant: str, key: str, info: QueueInfo, found: Round) -> FigureRow:
        rates = self._history.rates(key)
        row = asdict(info) | {
            "at": round(found.at_s, 1),
            "in_rate": _rounded(rates.incoming),
            "out_rate": _rounded(rates.outgoing),
            "paused": False,
            "full": key in self._full,
            "history": self._history.recent(key, SPARKS),
        }
        if info.reachable:
            row["paused"] = self._pauses.paused(self._catalog.queue(tenant, info.queue))
        return row

    def by_server(self, key: str, found: Round, names: Mapping[str, str]) -> list[FigureRow]:
        """The figures of the queue on each server that has it. names: of the servers, as they are shown."""
        rows = []
        for server, shown in names.items():
            if (stats := found.servers[server].get(key)) is not None:
                letters = found.servers[server].get(dead_key(self._catalog, key) or "")
                row = asdict(queue_info("", stats, letters))
                rates = self._history.rates(key, server)
                row |= {"server": shown, "in_rate": _rounded(rates.incoming), "out_rate": _rounded(rates.outgoing)}
                rows.append({name: value for name, value in row.items() if name not in _NOT_BY_SERVER})
        return rows

    def last_hour(self, queue: Queue) -> Mapping[str, Sequence[float | None]]:
        """See History.columns."""
        return self._history.columns(queue.key)


class PageData:
    """Handlers of the page's own paths below `/ui/`."""

    def __init__(
        self,
        settings: Settings,
        specification: Specification,
        gatherer: Gatherer,
        rows: FigureRows,
        turns: Turns,
    ) -> None:
        self._settings = settings
        self._specification = specification
        self._gatherer = gatherer
        self._rows = rows
        self._turns = turns

    async def session(self, call: Call) -> Answer:
        """Who calls, and which operations the key's scopes cover. Any key may ask."""
        caller = call.caller
        return json_answer(
            {
                "version": gateway.__version__,
                "keyed": self._settings.keys is not None,
                "key": caller.name or None,
                "tenant": caller.tenant or None,
                "choose_tenant": call.catalog.tenanted and not caller.tenant,
                "may": self._specification.allowed(caller.scopes),
                "read_only": self._settings.ui == "read-only",
                "payloads": self._settings.ui_payloads == "shown",
            }
        )

    async def history(self, call: Call) -> Answer:
        """The last hour of a queue, in columns."""
        query = _query(call)
        queue = call.catalog.queue(_tenant(call, query), query.get("queue", [""])[0])
        call.caller.check_queue(queue.name)
        return json_answer(self._rows.last_hour(queue))

    async def feed(self, call: Call) -> Answer:
        """Server-sent events with the figures of the caller's queues: first all of them, then what has changed.

        The figures of one round are in several events if they are many: all but the last have `more`.
        With `servers=true` each queue also has the figures of each server.
        """
        query = _query(call)
        servers = query.get("servers") == ["true"]
        tests = [queue_filter(text) for text in query.get("filter", [])]
        headers = [(b"content-type", b"text/event-stream"), NO_STORE, (b"x-accel-buffering", b"no")]
        return Answer(
            200, headers=headers, write_body=chunks(self._events(call, _tenant(call, query), tests, servers=servers))
        )

    async def _events(
        self, call: Call, tenant: str, tests: Sequence[Callable[[QueueFigures], bool]], *, servers: bool
    ) -> AsyncGenerator[bytes]:
        may_use = call.caller.may_use

        def wanted(info: QueueInfo) -> bool:
            return may_use(info.queue) and all(test(info) for test in tests)

        sent: dict[str, FigureRow] = {}
        number, first = 0, True
        with self._gatherer.watched():
            while (found := await self._gatherer.after(number)) is not None and _still_admitted(call):
                number = found.number
                names = _names(found, call.caller) if servers else None
                rows, left = await self._shown(tenant, found, wanted, names)
                gone = [name for name in sent if name not in rows]
                changed = [name for name, row in rows.items() if name not in sent or _differs(sent[name], row)]
                news = [_news(sent.get(name), rows[name]) for name in changed]
                sent = {name: sent[name] for name in sent if name in rows} | {name: rows[name] for name in changed}
                head = {
                    "coverage": None if found.coverage is None else str(found.coverage),
                    "left": left,
                    "servers": len(found.servers),
                }
                for start in range(0, max(1, len(news)), ROWS_A_CHUNK):
                    await self._turns.next(tenant)
                    some = news[start : start + ROWS_A_CHUNK]
                    more = start + ROWS_A_CHUNK < len(news)
                    yield _event(head | {"all": first, "queues": some, "gone": gone, "more": more})
                    gone = []
                first = False

    async def _shown(
        self, tenant: str, found: Round, wanted: Callable[[QueueInfo], bool], names: Mapping[str, str] | None
    ) -> tuple[Mapping[str, FigureRow], int]:
        """The rows by queue, and how many queues are above MAX_ROWS. names: see FigureRows.by_server; None: without the
        figures of servers."""
        steps = self._turns.slices(self._rows.of(tenant, found, wanted), tenant)
        queues = [each async for each in steps if each is not None]
        left = max(0, len(queues) - MAX_ROWS)
        if left:
            queues = heapq.nlargest(MAX_ROWS, queues, key=lambda each: each[1].backlog)
        rows = {}
        async for key, info in self._turns.slices(queues, tenant):
            rows[info.queue] = self._rows.row(tenant, key, info, found)
            if names is not None:
                rows[info.queue]["servers"] = self._rows.by_server(key, found, names)
        return rows, left


def _names(found: Round, caller: Caller) -> Mapping[str, str]:
    """The servers' addresses, or numbers in place of them for a caller that may not see addresses."""
    names = sorted(found.servers)
    return {name: name if caller.sees_deployment else f"server-{place}" for place, name in enumerate(names, 1)}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"event: queues\ndata: %b\n\n" % orjson.dumps(data)


def _still_admitted(call: Call) -> bool:
    """Whether the key is still in the file with the scopes that the stream needs."""
    try:
        caller = call.admission.identify(call.request.headers, call.spec.scopes)
    except GatewayError:
        return False
    return caller == call.caller


def _differs(before: FigureRow, now: FigureRow) -> bool:
    """Whether the page must be told. The age of a waiting job always grows, so only a visible step of it counts."""
    step = max(1.0, before["age_s"] * 0.02)
    if abs(now["age_s"] - before["age_s"]) >= step:
        return True
    return any(value != now[name] for name, value in before.items() if name not in _UNTOLD)


def _news(before: FigureRow | None, now: FigureRow) -> FigureRow:
    """The row without its history if that is known."""
    if before is None or before["history"] != now["history"]:
        return now
    return {name: value for name, value in now.items() if name != "history"}


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 2)


def _tenant(call: Call, query: Mapping[str, list[str]]) -> str:
    """The tenant whose figures the request reads. Raises InvalidParameter, ForbiddenScope."""
    return call.caller.tenant_of(query.get("tenant", [None])[0], call.catalog.tenanted)


def _query(call: Call) -> Mapping[str, list[str]]:
    """The parameters, decoded. Raises InvalidParameter."""
    try:
        pairs = parse_qsl(call.request.query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as exc:
        raise InvalidParameter(f"the query has more than the maximum of {MAX_FIELDS} parameters") from exc
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found
