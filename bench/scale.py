"""`python -m bench.scale`: how many gateways, connections and Kestrels, by a small seeded simulation.

Every figure that it starts from is a constant below, with its source. It simulates what a formula cannot say: how
random choice spreads jobs over servers, what a skewed set of ordering keys does to that, and what the loss of a server
does to those that are left. Nothing is measured here: bench/README.md has the measurements.
"""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

SEED = 20260131

# CPU microseconds of a core for one job, from the table of requests in bench/README.md, which is one run.
GATEWAY_US = {"enqueue": 112, "next + ack": 391}
BROKER_US = {"enqueue": 50, "next + ack": 152}
LOAD = 0.5
"""Of a core, that is counted on: a line of the log for each request, TLS and larger jobs come on top."""
GATEWAY_JOBS_S = LOAD * 1e6 / sum(GATEWAY_US.values())
"""Jobs a second through one worker: enqueue, next, ack."""
KESTREL_JOBS_S = LOAD * 1e6 / sum(BROKER_US.values())
"""Jobs a second through one server with fsync on: set, get, confirm."""
POLL_KB = 25
"""Memory of a waiting poll in a worker, at most."""
POLLS_A_WORKER = 10_000
"""--max-waiters."""
WAITS = 8
"""--kestrel-waits."""
LINE_GETS = 32
"""The most waiting gets for a queue in one worker."""

PEAK = 5
"""The busiest second has so many times the day's mean."""
QUEUES = 20
LEASE_S = 1.0
"""How long a consumer works on a job."""


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What one load needs."""

    jobs_a_day: int
    polls: int
    peak_s: float
    workers: int
    servers: int
    connections: int


def plan(jobs_a_day: int, polls: int) -> ScalePlan:
    """The smallest deployment that carries the peak with one worker and one server lost."""
    peak_s = jobs_a_day / 86_400 * PEAK
    workers = 1 + max(math.ceil(peak_s / GATEWAY_JOBS_S), math.ceil(polls / POLLS_A_WORKER))
    servers = 1 + math.ceil(peak_s / KESTREL_JOBS_S) if peak_s > 1 else 1
    # A server's connections: waiting gets, one per lease, and a few idle ones, from every worker.
    share = WAITS if servers == 1 else max(1, min(WAITS, LINE_GETS // servers))
    standing = min(QUEUES * share, max(1, polls)) * workers
    connections = standing + math.ceil(peak_s * LEASE_S / servers) + 2 * workers
    return ScalePlan(jobs_a_day, polls, peak_s, workers, servers, connections)


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of jobs: the fullest and the emptiest server relative to an equal share, before and after a
    loss."""

    name: str
    servers: int
    most: float
    least: float
    most_after: float
    stranded: float


def spread(name: str, servers: int, jobs: int, rng: random.Random, *, keys: int = 0, skew: float = 0.0) -> Spread:
    """Spreads jobs, at random or by ordering key; half-way a server is lost.

    keys: how many ordering keys, 0: none. skew: of their popularity (Zipf's exponent). stranded: the part of the jobs
    that are enqueued after the loss and have no server to go to.
    """
    half = jobs // 2
    if keys:
        popularity = [1 / (rank + 1) ** skew for rank in range(keys)]
        home = [_home(str(key), range(servers)) for key in range(keys)]
        chosen = rng.choices(home, popularity, k=jobs)
    else:
        chosen = [rng.randrange(servers) for _ in range(half)] + [rng.randrange(1, servers) for _ in range(half)]
    before, after = Counter(chosen[:half]), Counter(chosen[half:])
    stranded = after.pop(0, 0)
    even = half / servers
    least = min(before[server] for server in range(servers))
    return Spread(name, servers, max(before.values()) / even, least / even, max(after.values()) / even, stranded / half)


@functools.cache
def _home(key: str, servers: range) -> int:
    """Rendezvous hashing, as gateway/kestrel/puts/placement.py does it."""
    return max(servers, key=lambda server: blake2b(f"{server}\0q\0{key}".encode(), digest_size=16).digest())


SERVERS = (3, 8)


def report(numbers_of_servers: Sequence[int] = SERVERS) -> str:
    """Both tables, as markdown."""
    rng = random.Random(SEED)
    lines = [
        "| jobs a day | waiting polls | jobs/s at peak | workers | polls' memory | Kestrels | connections a Kestrel |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for jobs, polls in ((10_000, 10), (1_000_000, 1_000), (100_000_000, 10_000), (1_000_000, 100_000)):
        each = plan(jobs, polls)
        memory_mb = polls * POLL_KB / 1024
        lines.append(
            f"| {jobs:,} | {polls:,} | {each.peak_s:,.1f} | {each.workers} | {memory_mb:,.1f} MB "
            f"| {each.servers} | {each.connections:,} |"
        )
    lines += [
        "",
        "| distribution | servers | fullest | emptiest | fullest after a loss | refused after a loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for servers in numbers_of_servers:
        cases = [
            spread("at random", servers, 200_000, rng),
            spread("10,000 ordering keys", servers, 200_000, rng, keys=10_000),
            spread("10,000 keys, Zipf 1.0", servers, 200_000, rng, keys=10_000, skew=1.0),
            spread("20 ordering keys", servers, 200_000, rng, keys=20),
        ]
        lines += [
            f"| {each.name} | {each.servers} | {each.most:.2f} | {each.least:.2f} | {each.most_after:.2f} "
            f"| {each.stranded * 100:.0f} % |"
            for each in cases
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
