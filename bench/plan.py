"""How much is measured: the full run of a few minutes, or the quick one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.servers import Load


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """directory: where the servers keep their data; its file system is what fsync is measured on.

    turns: rounds of the requests, short ones, for what else the machine does changes by the second. units: requests, or
    pairs of them, a contestant and turn. sets: items stored a connection count and round. polls:
    how many are parked. wakes: measured for each. backlog: jobs waiting when the broker starts. leases: open at once,
    with as many waiting polls. settles: how many of them are settled, one at a time. idle_s: how long nothing happens;
    a round of pings.
    drained: polls that wait when their gateway gets SIGTERM. drains: how often.
    delayed: jobs with a delay of up to delay_s. due: jobs that are due in one second, in thousands.
    large_s: how long small jobs are measured in a round, with and without large items.
    """

    directory: Path
    rounds: int = 7
    turns: int = 35
    units: int = 2_000
    connections: int = 32
    sets: int = 8_000
    store_connections: tuple[int, ...] = (1, 32, 256)
    polls: tuple[int, ...] = (1, 1_000, 5_000)
    wakes: int = 500
    backlog: int = 1_000_000
    starts: int = 5
    leases: int = 5_000
    settles: int = 500
    idle_s: float = 25.0
    drained: int = 1_000
    drains: int = 5
    delayed: int = 400
    delay_s: float = 20.0
    due: int = 10_000
    large_s: float = 5.0


def quick(directory: Path) -> BenchPlan:
    """Small enough to run while working: under a minute."""
    return BenchPlan(
        directory,
        rounds=3,
        turns=9,
        units=1_000,
        sets=2_000,
        polls=(1, 1_000),
        wakes=100,
        backlog=100_000,
        starts=3,
        leases=1_000,
        settles=100,
        idle_s=5.0,
        drains=2,
        delayed=100,
        delay_s=4.0,
        due=2_000,
        large_s=1.0,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """What every group of cases is handed."""

    plan: BenchPlan
    load: Load

    def say(self, what: str) -> None:
        """Progress, on standard error: the table alone goes to standard output."""
        print(f"  {what} ...", file=sys.stderr, flush=True)
