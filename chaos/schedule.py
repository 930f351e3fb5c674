"""Who is struck when and how, for a whole run, out of a seed. Pure: the same seed makes the same schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass

REPLICAS, WORKERS, SERVERS = 2, 2, 2
PRODUCERS, CONSUMERS = 4, 8

FIRST_S = 1.0
"""Nothing is struck before."""
LONGEST_FREEZE_S = 4.0


@dataclass(frozen=True, slots=True)
class Blow:
    """at_s: after the run's start. length_s: how long the target stays frozen, or down before it is started again.

    target: `producer-0`, `consumer-3`, `worker-1.0` (replica and place), `replica-1`, `server-0`. action: `kill` (-9),
    `kill-parent` (of a replica: its supervisor alone), `freeze`.
    """

    at_s: float
    target: str
    action: str
    length_s: float


@dataclass(frozen=True, slots=True)
class Mood:
    """How a run strikes: the mean time between two blows, how often each kind is hit, the share of kills."""

    pause_s: float = 0.8
    clients: float = 0.35
    workers: float = 0.33
    replicas: float = 0.10
    servers: float = 0.22
    kills: float = 0.55


def make(seed: int, seconds: float, mood: Mood | None = None) -> list[Blow]:
    """The blows of a run, in their order; the last one is over when the run is. None hits what is down already."""
    mood = mood or Mood()
    chance = random.Random(f"schedule {seed}")
    busy_until_s: dict[str, float] = {}
    blows: list[Blow] = []
    at_s = FIRST_S
    while True:
        at_s += chance.uniform(0.2, 1.8) * mood.pause_s
        target = _target(chance, mood)
        action = _action(chance, target, mood)
        length_s = _length(chance, target, action)
        if at_s + length_s > seconds:
            return blows
        if any(busy_until_s.get(each, 0.0) > at_s for each in _touched(target)):
            continue
        for each in _touched(target):
            busy_until_s[each] = at_s + length_s
        blows.append(Blow(round(at_s, 3), target, action, round(length_s, 3)))


def _target(chance: random.Random, mood: Mood) -> str:
    clients = [f"producer-{each}" for each in range(PRODUCERS)] + [f"consumer-{each}" for each in range(CONSUMERS)]
    workers = [f"worker-{replica}.{place}" for replica in range(REPLICAS) for place in range(WORKERS)]
    replicas = [f"replica-{each}" for each in range(REPLICAS)]
    servers = [f"server-{each}" for each in range(SERVERS)]
    kinds = [clients, workers, replicas, servers]
    weights = [mood.clients, mood.workers, mood.replicas, mood.servers]
    return chance.choice(chance.choices(kinds, weights)[0])


def _action(chance: random.Random, target: str, mood: Mood) -> str:
    if chance.random() >= mood.kills:
        return "freeze"
    return chance.choice(["kill", "kill-parent"]) if target.startswith("replica") else "kill"


def _length(chance: random.Random, target: str, action: str) -> float:
    if action == "freeze":
        return chance.choice([chance.uniform(0.05, 0.5), chance.uniform(0.5, LONGEST_FREEZE_S)])
    if target.startswith("worker"):
        return 0.0  # its supervisor starts the next one
    return chance.uniform(0.0, 1.0)


def _touched(target: str) -> list[str]:
    """The target and whatever contains it or is contained in it."""
    kind, _, place = target.partition("-")
    if kind == "worker":
        return [target, f"replica-{place.partition('.')[0]}"]
    if kind == "replica":
        return [target, *(f"worker-{place}.{each}" for each in range(WORKERS))]
    return [target]
