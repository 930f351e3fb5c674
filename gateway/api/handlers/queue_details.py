"""What applies to one queue beyond its figures: its open leases, and its policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

from gateway.api.exchange import Answer, Call, json_answer
from gateway.api.specification import default_lease, longest_lease
from gateway.config.policies import RULES
from gateway.config.retry_delay import RetryDelay
from gateway.delivery.queues.catalog import Catalog
from gateway.envelope.times import timestamp
from gateway.forwarding.lease_lists import LeaseLists
from gateway.settings import Settings

WORK_LEASES = 500
"""Listing this many leases is as much work as one more request."""


class QueueDetails:
    """Handlers of `/queues/{queue}/leases` (GET) and `/queues/{queue}/policy`."""

    def __init__(self, settings: Settings, catalog: Catalog, lists: LeaseLists) -> None:
        self._catalog = catalog
        self._lists = lists
        self._longest_lease_s = longest_lease(settings)
        self._defaults = {
            "lease": default_lease(settings),
            "max_attempts": settings.max_attempts,
            "max_bytes": settings.max_job_bytes,
        }

    async def leases(self, call: Call) -> Answer:
        queue = call.queue()
        found = await self._lists.of(queue.key)
        call.worked(len(found.leases), WORK_LEASES)
        leases = [
            {
                "lease": each.lease,
                "job_id": each.job_id,
                "state": each.state,
                "holder": each.holder or None,
                "attempt": each.attempt,
                "taken_at": timestamp(each.taken_at_s),
                "expires_at": timestamp(each.expires_at_s),
                "bytes": each.bytes,
            }
            for each in found.leases
        ]
        return json_answer({"queue": queue.name, "leases": leases, "left": found.left, "complete": found.complete})

    async def policy(self, call: Call) -> Answer:
        """The values that apply, with the names of the file of policies."""
        queue = call.queue()
        values = {name: _value(getattr(queue.policy, rule.field)) for name, rule in RULES.items()}
        shown = values | {name: default for name, default in self._defaults.items() if values[name] is None}
        shown["lease"] = min(shown["lease"], self._longest_lease_s)
        return json_answer({"queue": queue.name, "table": self._catalog.table_of(queue), **shown})


def _value(value: Any) -> Any:
    """A value as it is written in the file."""
    match value:
        case Enum():
            return value.value
        case RetryDelay():
            return list(value.steps_s) if value.steps_s else _growth(value)
        case _:
            return value


def _growth(delay: RetryDelay) -> Mapping[str, float]:
    return {name.removesuffix("_s"): value for name, value in asdict(delay).items() if name != "steps_s"}
