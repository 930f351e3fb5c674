"""CPU per request and requests a second: the gateway's calls and a bare echo, in alternating rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from bench.plan import Run
from bench.servers import MeasuredServer, cpu_s, echo, gateway
from bench.table import Section, against, middle

POST_ECHO, GET_ECHO = "echo, POST", "echo, GET"
ENQUEUE, ENQUEUE_RAW = "enqueue", "enqueue, stored raw"
ENVELOPE_LIMIT = 1.25
"""What the envelope may cost: an enqueue's CPU against that of one which stores the body as it is."""

QUEUES = '[queues.bench-raw]\nformat = "raw"\n'


@dataclass(frozen=True, slots=True)
class Contestant:
    """One call. yardstick: the echo's calls that a unit of it is compared with. limit: the target for that ratio."""

    name: str
    server: MeasuredServer
    method: str
    path: str
    status: str
    yardstick: tuple[str, ...] = ()
    limit: float | None = None
    ack: bool = False

    def order(self, connections: int) -> dict[str, Any]:
        """The load generator's `open` for it."""
        return {
            "kind": "http",
            "address": self.server.address,
            "connections": connections,
            "request": {"method": self.method, "path": self.path, "body": self.method == "POST"},
            "status": self.status,
            "ack": self.ack,
        }


@dataclass(frozen=True, slots=True)
class RoundSample:
    """One contestant's round, a unit."""

    cpu_us: float
    broker_us: float
    per_s: float


def measure(run: Run) -> Section:
    """The table of requests."""
    plan = run.plan
    base = plan.directory / "requests"
    base.mkdir(parents=True, exist_ok=True)
    policies = base / "queues.toml"
    policies.write_text(QUEUES)
    with (
        echo(base) as bare,
        gateway(base / "quiet", "--log-level", "warning", "--queues", str(policies)) as quiet,
        gateway(base / "logging") as logging,
    ):
        contestants = [
            Contestant(POST_ECHO, bare, "POST", "/echo", "200"),
            Contestant(ENQUEUE, quiet, "POST", "/queues/bench/jobs", "201", (POST_ECHO,), 1.8),
            Contestant(ENQUEUE_RAW, quiet, "POST", "/queues/bench-raw/jobs", "201", (POST_ECHO,)),
            Contestant(GET_ECHO, bare, "GET", "/echo", "200"),
            Contestant("next, empty", quiet, "GET", "/queues/bench-empty/next?timeout=0", "204", (GET_ECHO,), 1.6),
            Contestant(
                "next + ack (2 requests)", quiet, "GET", "/queues/bench/next?timeout=0", "200", (GET_ECHO, POST_ECHO),
                ack=True,
            ),
            Contestant("enqueue, each logged", logging, "POST", "/queues/bench/jobs", "201", (POST_ECHO,)),
        ]  # fmt: skip
        samples: dict[str, list[RoundSample]] = defaultdict(list)
        for each in contestants:
            _round(run, each, plan.units)
        for number in range(plan.turns):
            run.say(f"requests, round {number + 1} of {plan.turns}")
            for each in contestants:
                samples[each.name].append(_round(run, each, plan.units))
    return Section(
        "Requests (32 keep-alive connections, 200-byte JSON jobs, fsync on)",
        ("call", "gateway us", "broker us", "a second", "x echo", "target"),
        [_row(each, samples) for each in contestants],
        "us: CPU microseconds of the serving process and of the broker. x echo: the serving process' CPU against the"
        "\nbare Starlette echo's for the same method and number of requests: median (quartiles) of the rounds."
        f"\nThe envelope: {_envelope(samples)}",
    )


def _round(run: Run, each: Contestant, units: int) -> RoundSample:
    run.load.ask("open", **each.order(run.plan.connections))
    before_s, broker_before_s = cpu_s(each.server.pid), cpu_s(each.server.broker)
    ran = run.load.ask("run", units=units)
    spent_s, broker_spent_s = cpu_s(each.server.pid) - before_s, cpu_s(each.server.broker) - broker_before_s
    run.load.ask("close")
    return RoundSample(spent_s / units * 1e6, broker_spent_s / units * 1e6, units / ran["seconds"])


def _envelope(samples: dict[str, list[RoundSample]]) -> str:
    ratios = [mine.cpu_us / raw.cpu_us for mine, raw in zip(samples[ENQUEUE], samples[ENQUEUE_RAW], strict=True)]
    told = f"an enqueue costs {_spread(ratios)} times one that stores the plain body"
    return f"{told}; target {against(middle(ratios), ENVELOPE_LIMIT)}."


def _spread(ratios: Sequence[float]) -> str:
    low, half, high = quantiles(ratios, n=4)
    return f"{half:.2f} ({low:.2f}-{high:.2f})"


def _row(each: Contestant, samples: dict[str, list[RoundSample]]) -> tuple[str, ...]:
    mine = samples[each.name]
    broker_us = middle([sample.broker_us for sample in mine])
    ratio = ""
    target = ""
    if each.yardstick:
        rounds = zip(mine, *(samples[name] for name in each.yardstick), strict=True)
        ratios = [sample.cpu_us / sum(rival.cpu_us for rival in rivals) for sample, *rivals in rounds]
        ratio = _spread(ratios)
        target = against(middle(ratios), each.limit) if each.limit else ""
    return (
        each.name,
        f"{middle([sample.cpu_us for sample in mine]):.0f}",
        f"{broker_us:.0f}" if each.server.broker else "",
        f"{middle([sample.per_s for sample in mine]):,.0f}",
        ratio,
        target,
    )
