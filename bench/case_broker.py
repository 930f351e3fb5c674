"""The embedded broker alone: durable sets at several connection counts, and its start with a long backlog."""

from __future__ import annotations

from collections import defaultdict

from bench.plan import Run
from bench.servers import broker, cpu_s, fsync_ms, resident_bytes
from bench.table import Section, against, middle

MEBIBYTE = 1 << 20


def sets(run: Run) -> Section:
    """Sets a second with fsync on; the connection counts take turns."""
    plan = run.plan
    samples: dict[int, list[tuple[float, float]]] = defaultdict(list)
    with broker(plan.directory / "sets") as server:
        for number in range(plan.rounds + 1):
            run.say(f"broker sets, round {number} of {plan.rounds}" if number else "broker sets, warming up")
            for count in plan.store_connections:
                units = max(plan.sets // 4, 2 * count) if count == 1 or not number else plan.sets
                request = {"queue": "bench"}
                run.load.ask(
                    "open", kind="memcache", address=server.memcache, connections=count, request=request,
                    status="STORED",
                )  # fmt: skip
                before_s = cpu_s(server.pid)
                ran = run.load.ask("run", units=units)
                spent_s = cpu_s(server.pid) - before_s
                run.load.ask("close")
                if number:
                    samples[count].append((spent_s / units * 1e6, units / ran["seconds"]))
    return Section(
        "Broker alone: set of 200 bytes, fsync on, no pipelining",
        ("connections", "CPU us a set", "sets a second"),
        [
            (
                f"{count}",
                f"{middle([cpu_us for cpu_us, _ in samples[count]]):.0f}",
                f"{middle([per_s for _, per_s in samples[count]]):,.0f}",
            )
            for count in plan.store_connections
        ],
        f"One fsync of this disk, meanwhile: {fsync_ms(plan.directory):.2f} ms (median).",
    )


def backlog(run: Run) -> Section:
    """Time from starting the process to ready, and its memory then, with jobs waiting."""
    plan = run.plan
    directory = plan.directory / "backlog"
    run.say(f"filling a queue with {plan.backlog:,} jobs")
    with broker(directory) as server:
        empty_ready_s, empty_bytes = server.ready_s, resident_bytes(server.pid)
        filled_s = run.load.ask("fill", address=server.memcache, queue="bench", count=plan.backlog)["seconds"]
    ready, resident = [], []
    for _ in range(plan.starts):
        run.say("starting on it")
        with broker(directory) as server:
            ready.append(server.ready_s)
            resident.append(resident_bytes(server.pid) / MEBIBYTE)
    return Section(
        f"Broker start (median of {plan.starts})",
        ("waiting jobs", "ready s", "target", "memory MB", "target"),
        [
            ("0", f"{empty_ready_s:.2f}", "", f"{empty_bytes / MEBIBYTE:.0f}", ""),
            (
                f"{plan.backlog:,}",
                f"{middle(ready):.2f}",
                against(middle(ready), 1, " s"),
                f"{middle(resident):.0f}",
                against(middle(resident), 100, " MB"),
            ),
        ],
        f"Filled over one pipelined connection at {plan.backlog / filled_s:,.0f} jobs a second.",
    )
