"""What waiting costs: the CPU of a worker and of its broker while polls wait on empty queues and nothing happens."""

from __future__ import annotations

import time

from bench.plan import Run
from bench.servers import cpu_s, gateway
from bench.table import Section, against

QUEUES = (1, 100, 2_000)
TARGETS = {1: 2.0, 2_000: 20.0}


def measure(run: Run) -> Section:
    """The table of waiting polls, one on each queue; a fresh server for each number of queues."""
    rows = []
    for count in QUEUES:
        run.say(f"{count:,} queues with a waiting poll each")
        base = run.plan.directory / f"idle-{count}"
        with gateway(base, "--max-timeout", "600", "--log-level", "warning") as server:
            poll = "/queues/idle{number}/next?timeout=600"
            run.load.ask("park", address=server.address, poll=poll, wake="/queues/x/jobs", count=count, ack=False)
            time.sleep(3)  # first questions and connections are over
            pids = (server.pid, server.broker)
            before_s, began_s = [cpu_s(pid) for pid in pids], time.perf_counter()
            time.sleep(run.plan.idle_s)
            span_s = time.perf_counter() - began_s
            worker, broker = (100 * (cpu_s(pid) - used_s) / span_s for pid, used_s in zip(pids, before_s, strict=True))
            run.load.ask("leave")
        target = against(worker, TARGETS[count], " %") if count in TARGETS else ""
        rows.append((f"{count:,} queues", f"{worker:.2f}", target, f"{broker:.2f}"))
    return Section(
        "Idle (one waiting poll a queue, nothing happens)",
        ("polled queues", "worker % of a core", "target", "broker % of a core"),
        rows,
        "A get waits on the broker for a second, with more than 500 of them for longer: see docs/scale.md, Reads.",
    )
