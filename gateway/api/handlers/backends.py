"""The Kestrel servers over HTTP: their states, and taking one out of use."""

from __future__ import annotations

from gateway.api.exchange import Answer, Call, json_answer
from gateway.envelope.times import timestamp
from gateway.kestrel.client import Kestrel
from gateway.kestrel.health import Health, ServerView


class Backends:
    """Handlers of `/backends`."""

    def __init__(self, kestrel: Kestrel) -> None:
        self._kestrel = kestrel

    async def list(self, _call: Call) -> Answer:
        return json_answer({"backends": [_shown(each) for each in self._kestrel.backends()]})

    async def set_status(self, call: Call) -> Answer:
        body = await call.json()
        return json_answer(_shown(await self._kestrel.set_status(call.path("backend"), Health(body["status"]))))


def _shown(backend: ServerView) -> dict[str, object]:
    capabilities = backend.capabilities
    return {
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
