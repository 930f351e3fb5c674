"""Many open leases and many waiting polls, on one gateway of two workers: memory, idle CPU, time to settle."""

from __future__ import annotations

import time
from typing import Any

from bench.plan import Run
from bench.servers import MeasuredServer, connections_held, cpu_s, family, fsync_ms, gateway, resident_bytes, settle
from bench.table import Section, against, middle, percentile

CONNECTIONS = 32
PAUSE_S = 0.002
LEASE = "/queues/held/next?timeout=1&lease=3600"
POLL = "/queues/parked/next?timeout=45"
WAKE = "/queues/parked/jobs"
IDLE_LIMIT_PERCENT = 3.0


def measure(run: Run) -> Section:
    """The table: a few leases alone first, then all of them, then as many parked polls on top."""
    plan = run.plan
    rows: list[tuple[str, ...]] = []
    directory = plan.directory / "leases"
    with gateway(directory, "--workers", "2", "--log-level", "warning") as server:
        run.load.ask("fill", address=server.memcache, queue="held", count=plan.leases + plan.settles)
        settle(*family(server))
        base_bytes = _gateway_bytes(server)
        run.say(f"{plan.settles:,} leases, settled alone")
        _hold(run, server, plan.settles)
        alone_ms = run.load.ask("settle", count=plan.settles, pause_s=PAUSE_S)["ms"]
        run.load.ask("release")
        rows.append(("some leases alone", "", "", "", "", "", *_latency(alone_ms)))
        run.say(f"{plan.leases:,} leases")
        took_s = _hold(run, server, plan.leases)
        settle(*family(server))
        held_bytes = _gateway_bytes(server)
        rows.append(_row(run, server, f"{plan.leases:,} leases", (held_bytes - base_bytes) / plan.leases, None))
        run.say(f"{plan.leases:,} parked polls beside them")
        run.load.ask("park", address=server.address, poll=POLL, wake=WAKE, count=plan.leases, ack=True)
        settle(*family(server))
        poll_bytes = (_gateway_bytes(server) - held_bytes) / plan.leases
        idle = _row(run, server, f"and {plan.leases:,} parked polls", poll_bytes, IDLE_LIMIT_PERCENT)
        busy_ms = run.load.ask("settle", count=plan.settles, pause_s=PAUSE_S)["ms"]
        rows += [idle, ("settling among them", "", "", "", "", "", *_latency(busy_ms))]
        run.load.ask("leave")
        run.load.ask("release")
    return Section(
        "Leases and parked polls (one gateway of 2 workers, embedded broker, fsync on)",
        ("what stands", "KB each", "idle CPU %", "target", "broker's", "Kestrel conns", "ack p50 ms", "ack p99 ms"),
        rows,
        "KB each: growth of the resident memory of both workers. idle CPU: of one core, by supervisor and workers over"
        f"\n{plan.idle_s:g} s, pings to Kestrel included. ack: one at a time, half of them by the other worker."
        f"\nTaking the leases: {plan.leases / took_s:,.0f} a second over {CONNECTIONS} connections."
        f" One fsync of this disk, meanwhile: {fsync_ms(plan.directory):.2f} ms (median).",
    )


def _hold(run: Run, server: MeasuredServer, count: int) -> float:
    order: dict[str, Any] = {"address": server.address, "take": LEASE, "count": count, "connections": CONNECTIONS}
    took_s: float = run.load.ask("hold", **order)["seconds"]
    return took_s


def _row(run: Run, server: MeasuredServer, name: str, each_bytes: float, limit: float | None) -> tuple[str, ...]:
    percent, broker_percent = _idle_percents(server, run.plan.idle_s)
    return (
        name,
        f"{each_bytes / 1024:.1f}",
        f"{percent:.1f}",
        against(percent, limit, " %") if limit is not None else "",
        f"{broker_percent:.1f}",
        f"{connections_held(server):,}",
        "",
        "",
    )


def _idle_percents(server: MeasuredServer, seconds: float) -> tuple[float, float]:
    """Of the supervisor and its workers, and of the broker."""
    gateways = [pid for pid in family(server) if pid != server.broker]
    before_s, broker_before_s = sum(map(cpu_s, gateways)), cpu_s(server.broker)
    time.sleep(seconds)
    spent_s, broker_spent_s = sum(map(cpu_s, gateways)) - before_s, cpu_s(server.broker) - broker_before_s
    return spent_s / seconds * 100, broker_spent_s / seconds * 100


def _latency(took_ms: list[float]) -> tuple[str, str]:
    return f"{middle(took_ms):.2f}", f"{percentile(took_ms, 99):.2f}"


def _gateway_bytes(server: MeasuredServer) -> int:
    """Of the workers: the broker's memory is another case's business."""
    return sum(resident_bytes(pid) for pid in family(server)[1:] if pid != server.broker)
