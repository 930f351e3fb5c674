"""Counts what the client side of Kestrel has done since it started. Owns numbers only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Running totals, one set per process. `snapshot` reads them."""

    connects: int = 0
    connect_failures: int = 0
    commands: int = 0
    command_failures: int = 0
    pings: int = 0
    waits_sent: int = 0
    waits_cut: int = 0
    items_taken: int = 0
    given_back_unserved: int = 0
    lost_reads: int = 0


@dataclass(slots=True)
class Statistics(Counters):
    """The totals at one moment, and the current gauges."""

    connections: int = 0
    pinned: int = 0
    waiters: int = 0
    open_waits: int = 0
    waited_queues: int = 0


def snapshot(counters: Counters, **now: int) -> Statistics:
    """The totals together with the current values in `now`."""
    return Statistics(**dataclasses.asdict(counters), **now)
