"""`GET /`: what a client asks once, before it uses a gateway: version, limits, and what the servers lack.

A browser is sent to the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gateway
from gateway.api.exchange import Answer, Call, json_answer
from gateway.api.handlers.page import VARY_ACCEPT, Page
from gateway.api.specification import default_lease, longest_lease
from gateway.kestrel.client import Kestrel
from gateway.settings import Settings


class Info:
    """The handler of `/`. It needs no key, so it names no server and no tenant. page: where it sends browsers."""

    def __init__(self, settings: Settings, kestrel: Kestrel, page: Page) -> None:
        self._limits = _limits(settings)
        self._kestrel = kestrel
        self._page = page

    async def show(self, call: Call) -> Answer:
        redirect = self._page.leads_to(call)
        if redirect is not None:
            return redirect
        lacks = [each.capabilities.missing for each in self._kestrel.backends() if each.capabilities is not None]
        return json_answer(
            {
                "name": "kestrel-gateway",
                "version": gateway.__version__,
                "contract": f"{call.root}/openapi.yaml",
                "limits": self._limits,
                "missing": list(dict.fromkeys(name for missing in lacks for name in missing)),
            },
            headers=[VARY_ACCEPT],
        )


def _limits(settings: Settings) -> Mapping[str, Any]:
    """What a request may ask for and contain. Quantities have the names of openapi.yaml, with their units."""
    return {
        "default_timeout_seconds": settings.default_timeout_s,
        "max_timeout_seconds": settings.max_timeout_s,
        "default_lease_seconds": default_lease(settings),
        "max_lease_seconds": longest_lease(settings),
        "max_job_bytes": settings.max_job_bytes,
        "max_batch_jobs": settings.max_batch_jobs,
        "max_batch_bytes": settings.max_batch_bytes,
        "idempotency_window_seconds": settings.idempotency_window_s,
    }
