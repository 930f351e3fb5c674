"""Three servers instead of one: what parked polls cost while nothing happens, and how soon a job reaches one."""

from __future__ import annotations

import contextlib
import time

from bench.case_parked import PAUSE_S
from bench.plan import Run
from bench.servers import MeasuredServer, broker, connections_held, cpu_s, gateway_before, settle
from bench.table import Section, against, middle, percentile

QUEUE = "/queues/parked"
POLLS = 1_000
IDLE_PERCENT = 2
WAKE_RATIO = 1.5


def measure(run: Run) -> Section:
    """One server, then three, each with fresh processes."""
    rows: list[tuple[str, ...]] = []
    base_ms = 0.0
    for count in (1, 3):
        run.say(f"{POLLS:,} parked polls over {count} server(s)")
        directory = run.plan.directory / f"cluster-{count}"
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(broker(directory / f"broker-{n}")) for n in range(count)]
            addresses = ",".join(each.memcache for each in many)
            flags = ("--kestrel", addresses, "--max-timeout", "600", "--log-level", "warning")
            server = stack.enter_context(gateway_before(directory, *flags))
            idle, broker_idle, held, took_ms = _figures(run, server, many)
        base_ms = base_ms or middle(took_ms)
        rows.append(
            (
                f"{count} server(s)",
                f"{idle:.2f}",
                against(idle, IDLE_PERCENT, " %"),
                f"{broker_idle:.2f}",
                " + ".join(map(str, held)),
                f"{middle(took_ms):.2f}",
                against(middle(took_ms) / base_ms, WAKE_RATIO, " x") if count > 1 else "",
                f"{percentile(took_ms, 99):.2f}",
            )
        )
    return Section(
        f"Several servers ({POLLS:,} polls parked on one queue, fsync on)",
        ("", "gateway idle %", "target", "brokers idle %", "Kestrel conns", "wake p50 ms", "target", "wake p99 ms"),
        rows,
        f"idle: CPU of one core over {run.plan.idle_s:g} s without a job; all brokers together.",
    )


def _figures(
    run: Run, server: MeasuredServer, many: list[MeasuredServer]
) -> tuple[float, float, list[int], list[float]]:
    poll = f"{QUEUE}/next?timeout=600"
    run.load.ask("park", address=server.address, poll=poll, wake=f"{QUEUE}/jobs", count=POLLS, ack=True)
    settle(server.pid, *(each.pid for each in many))
    before = [cpu_s(server.pid), sum(cpu_s(each.pid) for each in many)]
    time.sleep(run.plan.idle_s)
    after = [cpu_s(server.pid), sum(cpu_s(each.pid) for each in many)]
    idle, broker_idle = ((b - a) / run.plan.idle_s * 100 for a, b in zip(before, after, strict=True))
    held = [connections_held(each) for each in many]
    took_ms = run.load.ask("wake", count=run.plan.wakes, pause_s=PAUSE_S)["ms"]
    run.load.ask("leave")
    return idle, broker_idle, held, took_ms
