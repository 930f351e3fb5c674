"""Which faults a run injects, where and when, from a seed. Pure: the same seed makes the same schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass

PRODUCERS, CONSUMERS = 4, 8
STREAMING = frozenset({"consumer-0", "consumer-3"})
"""The consumers that use streams, if the gateway has them."""
BATCHING = frozenset({"consumer-1", "consumer-5"})
"""The consumers that take batches, if the gateway has them."""

FIRST_S = 1.0
"""No fault is injected before."""
LONGEST_FREEZE_S = 4.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What a run consists of. workers: of each replica. servers: 0: each replica has its embedded broker."""

    replicas: int
    workers: int
    servers: int

    @property
    def embedded(self) -> bool:
        return not self.servers


CLUSTER = Layout(replicas=2, workers=2, servers=2)
EMBEDDED = Layout(replicas=1, workers=3, servers=0)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """at_s: after the run's start. length_s: how long the target stays frozen, or down before it is started again.

    target: `producer-0`, `consumer-3`, `worker-1.0` (replica and place), `replica-1`, `server-0`, `broker-0` (the
    embedded one of that replica). action: `kill` (-9), `kill-parent` (of a replica: its supervisor alone), `freeze`,
    `fill` (of an embedded broker: its disk is full).
    """

    at_s: float
    target: str
    action: str
    length_s: float


@dataclass(frozen=True, slots=True)
class FaultProfile:
    """How a run injects faults: the mean time between two faults, how often each kind is hit, the share of kills."""

    pause_s: float = 0.8
    clients: float = 0.35
    workers: float = 0.33
    replicas: float = 0.10
    servers: float = 0.22
    kills: float = 0.55


def make(
    seed: int, seconds: float, profile: FaultProfile | None = None, layout: Layout = CLUSTER
) -> list[PlannedFault]:
    """The faults of a run, in their order; the last one is over when the run is. None hits what is down already."""
    profile = profile or FaultProfile()
    chance = random.Random(f"schedule {seed}")
    busy_until_s: dict[str, float] = {}
    faults: list[PlannedFault] = []
    at_s = FIRST_S
    while True:
        at_s += chance.uniform(0.2, 1.8) * profile.pause_s
        target = _target(chance, profile, layout)
        action = _action(chance, target, profile)
        length_s = _length(chance, target, action)
        if at_s + length_s > seconds:
            return faults
        if any(busy_until_s.get(each, 0.0) > at_s for each in _touched(target, layout)):
            continue
        for each in _touched(target, layout):
            busy_until_s[each] = at_s + length_s
        faults.append(PlannedFault(round(at_s, 3), target, action, round(length_s, 3)))


def _target(chance: random.Random, profile: FaultProfile, layout: Layout) -> str:
    clients = [f"producer-{each}" for each in range(PRODUCERS)] + [f"consumer-{each}" for each in range(CONSUMERS)]
    workers = [f"worker-{replica}.{place}" for replica in range(layout.replicas) for place in range(layout.workers)]
    replicas = [f"replica-{each}" for each in range(layout.replicas)]
    if layout.embedded:
        servers = [f"broker-{each}" for each in range(layout.replicas)]
    else:
        servers = [f"server-{each}" for each in range(layout.servers)]
    kinds = [clients, workers, replicas, servers]
    weights = [profile.clients, profile.workers, profile.replicas, profile.servers]
    return chance.choice(chance.choices(kinds, weights)[0])


def _action(chance: random.Random, target: str, profile: FaultProfile) -> str:
    if chance.random() >= profile.kills:
        return chance.choice(["freeze", "fill"]) if target.startswith("broker") else "freeze"
    return chance.choice(["kill", "kill-parent"]) if target.startswith("replica") else "kill"


def _length(chance: random.Random, target: str, action: str) -> float:
    if action == "freeze":
        return chance.choice([chance.uniform(0.05, 0.5), chance.uniform(0.5, LONGEST_FREEZE_S)])
    if action == "fill":
        return chance.uniform(0.5, LONGEST_FREEZE_S)
    if target.startswith(("worker", "broker")):
        return 0.0  # its supervisor starts the next one
    return chance.uniform(0.0, 1.0)


def _touched(target: str, layout: Layout) -> list[str]:
    """The target and whatever contains it or is contained in it."""
    kind, _, place = target.partition("-")
    if kind in {"worker", "broker"}:
        return [target, f"replica-{place.partition('.')[0]}"]
    if kind == "replica":
        return [target, f"broker-{place}", *(f"worker-{place}.{each}" for each in range(layout.workers))]
    return [target]
