"""The Kestrel servers over HTTP: their states, and taking one out of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.api.exchange import Answer, Call, json_answer
from gateway.envelope.times import timestamp
from gateway.errors import BackendUnavailable
from gateway.kestrel.client import Kestrel
from gateway.kestrel.health import Health, ServerView
from gateway.queue_stats import QueueStats


class Backends:
    """Handlers of `/backends`. holding_keys: of the queues of delayed jobs."""

    def __init__(self, kestrel: Kestrel, holding_keys: Sequence[str]) -> None:
        self._kestrel = kestrel
        self._holding_keys = holding_keys

    async def list(self, call: Call) -> Answer:
        if not call.caller.sees_deployment:
            servers = sorted(self._kestrel.backends(), key=lambda each: each.server)
            return json_answer({"backends": [_anonymous(n, each) for n, each in enumerate(servers, 1)]})
        totals = await self._totals()
        return json_answer({"backends": [_shown(each, totals) for each in self._kestrel.backends()]})

    async def set_status(self, call: Call) -> Answer:
        body = await call.json()
        backend = await self._kestrel.set_status(call.path("backend"), Health(body["status"]))
        return json_answer(_shown(backend, await self._totals()))

    async def _totals(self) -> dict[str, dict[str, int]]:
        """What is on each server that answers, in queues of every name, with children and dead letters."""
        try:
            merged = await self._kestrel.queue_stats()
        except BackendUnavailable:
            return {}
        return {
            server: {
                "delayed": sum(_held(queues[key]) for key in self._holding_keys if key in queues),
                "items": sum(each.items for each in queues.values()),
                "open_reads": sum(each.open_reads for each in queues.values()),
            }
            for server, queues in merged.servers.items()
        }


def _held(queue: QueueStats) -> int:
    return queue.items + queue.open_reads


def _anonymous(number: int, backend: ServerView) -> dict[str, object]:
    """The server without its address, and without what other tenants use."""
    return _shown(backend, {}) | {"server": f"server-{number}", "connections": {}, "full": False, "error": None}


def _shown(backend: ServerView, totals: Mapping[str, Mapping[str, int]]) -> dict[str, object]:
    capabilities = backend.capabilities
    shown: dict[str, object] = {
        "server": backend.server,
        "status": backend.state.value,
        "since": timestamp(backend.since),
        "version": backend.version or None,
        "software": capabilities.software if capabilities else None,
        "missing": capabilities.missing if capabilities else [],
        "connections": backend.connections,
        "leaving": backend.leaving,
        "full": backend.full,
        "error": backend.last_error or None,
    }
    return {**shown, **totals.get(backend.server, {})}
