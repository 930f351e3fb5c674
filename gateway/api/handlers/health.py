"""Health and the contract over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.api.exchange import JSON, Answer, Call, json_answer
from gateway.api.specification import Specification
from gateway.errors import BackendUnavailable, Draining, NotFound


class HealthHandlers:
    """Handlers for the gateway itself. available, draining: called at each readiness check."""

    def __init__(
        self, specification: Specification, available: Callable[[], bool], draining: Callable[[], bool]
    ) -> None:
        self._specification = specification
        self._available = available
        self._draining = draining

    async def livez(self, _call: Call) -> Answer:
        return json_answer({"status": "alive"})

    async def readyz(self, _call: Call) -> Answer:
        if self._draining():
            raise Draining("the gateway is shutting down")
        if not self._available():
            raise BackendUnavailable("no Kestrel server delivers jobs at the moment")
        return json_answer({"status": "ready"})

    async def probe_live(self, call: Call) -> Answer:
        """Like livez, without a body, for load balancers that send OPTIONS."""
        await self.livez(call)
        return Answer(204)

    async def probe_ready(self, call: Call) -> Answer:
        """Like readyz, without a body."""
        await self.readyz(call)
        return Answer(204)

    async def explain_problem(self, call: Call) -> Answer:
        code = call.path("code")
        explanation = self._specification.explanations.get(code)
        if explanation is None:
            raise NotFound(f"{code[:80]!r} is not a problem code; /openapi.yaml lists all codes")
        return Answer(200, explanation, [JSON])

    async def contract_json(self, _call: Call) -> Answer:
        return Answer(200, self._specification.json, [JSON])

    async def contract_yaml(self, _call: Call) -> Answer:
        return Answer(
            200, await asyncio.to_thread(self._specification.as_yaml), [(b"content-type", b"application/yaml")]
        )
