"""The Kestrel servers over HTTP: their states, and taking one out of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.api.exchange import Answer, Call, json_answer
from gateway.envelope.times import timestamp
from gateway.errors import BackendUnavailable
from gateway.kestrel.client import Kestrel
from gateway.kestrel.health import Health, ServerView


class Backends:
    """Handlers of `/backends`. holding_keys: of the queues of delayed jobs."""

    def __init__(self, kestrel: Kestrel, holding_keys: Sequence[str]) -> None:
        self._kestrel = kestrel
        self._holding_keys = holding_keys

    async def list(self, call: Call) -> Answer:
        if not call.caller.sees_deployment:
            servers = sorted(self._kestrel.backends(), key=lambda each: each.server)
            return json_answer({"backends": [_anonymous(n, each) for n, each in enumerate(servers, 1)]})
        delayed = await self._delayed()
        return json_answer({"backends": [_shown(each, delayed) for each in self._kestrel.backends()]})

    async def set_status(self, call: Call) -> Answer:
        body = await call.json()
        backend = await self._kestrel.set_status(call.path("backend"), Health(body["status"]))
        return json_answer(_shown(backend, await self._delayed()))

    async def _delayed(self) -> dict[str, int]:
        """The number of delayed jobs on each server that answers."""
        try:
            merged = await self._kestrel.queue_stats(*self._holding_keys)
        except BackendUnavailable:
            return {}
        return {
            server: sum(each.items + each.open_reads for each in queues.values())
            for server, queues in merged.servers.items()
        }


def _anonymous(number: int, backend: ServerView) -> dict[str, object]:
    """The server without its address, and without what other tenants use."""
    return _shown(backend, {}) | {"server": f"server-{number}", "connections": {}, "full": False, "error": None}


def _shown(backend: ServerView, delayed: Mapping[str, int]) -> dict[str, object]:
    told: dict[str, object] = {"delayed": delayed[backend.server]} if backend.server in delayed else {}
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
    return shown | told
