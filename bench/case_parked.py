"""Memory of parked polls, the Kestrel connections they share, and how soon an enqueued job reaches one."""

from __future__ import annotations

from bench.plan import Run
from bench.servers import MeasuredServer, connections_held, echo, fsync_ms, gateway, resident_bytes, settle
from bench.table import Section, against, middle, percentile

QUEUE = "/queues/parked"
PAUSE_S = 0.005


def measure(run: Run) -> Section:
    """The table of parked polls; a fresh server for each count, so that memory grows from nothing."""
    rows = []
    for count in run.plan.polls:
        run.say(f"{count:,} parked polls")
        base = run.plan.directory / f"parked-{count}"
        with echo(base) as server:
            rows.append(_row(run, f"echo, {count:,} parked", server, count=count, poll="/park", wake="/wake"))
        with gateway(base, "--max-timeout", "600", "--log-level", "warning") as server:
            poll = f"{QUEUE}/next?timeout=600"
            rows.append(_row(run, f"gateway, {count:,} parked", server, count=count, poll=poll, wake=f"{QUEUE}/jobs"))
    return Section(
        "Parked polls (one queue, fsync on; a job every 5 ms or slower)",
        ("polls", "KB a poll", "target", "Kestrel conns", "target", "wake p50 ms", "target", "wake p99 ms"),
        rows,
        "KB a poll: growth of the serving process' resident memory, client connection included. wake: from writing the"
        "\nenqueue to having read the whole answer of the parked poll, one at a time, the gateway's commit included."
        f"\nOne fsync of this disk, meanwhile: {fsync_ms(run.plan.directory):.2f} ms (median).",
    )


def _row(run: Run, name: str, server: MeasuredServer, *, count: int, poll: str, wake: str) -> tuple[str, ...]:
    settle(server.pid, server.broker)
    before_bytes = resident_bytes(server.pid)
    ours = server.broker is not None
    run.load.ask("park", address=server.address, poll=poll, wake=wake, count=count, ack=ours)
    settle(server.pid, server.broker)
    poll_kb = (resident_bytes(server.pid) - before_bytes) / count / 1024
    held = connections_held(server) if ours else 0
    took_ms = run.load.ask("wake", count=run.plan.wakes, pause_s=PAUSE_S)["ms"]
    run.load.ask("leave")
    many = count >= 100
    return (
        name,
        f"{poll_kb:.1f}" if many else "",
        against(poll_kb, 25, " KB") if many and ours else "",
        str(held) if ours else "",
        against(held, 32) if ours else "",
        f"{middle(took_ms):.2f}",
        against(middle(took_ms), 2, " ms") if ours else "",
        f"{percentile(took_ms, 99):.2f}",
    )
