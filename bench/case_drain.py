"""How soon waiting polls are answered when their gateway gets SIGTERM."""

from __future__ import annotations

from bench.plan import Run
from bench.servers import family, gateway, settle
from bench.table import Section, against, middle, percentile

POLL = "/queues/parked/next?timeout=45"
WAKE = "/queues/parked/jobs"
LIMIT_MS = 300.0


def measure(run: Run) -> Section:
    """The table, for one worker and for two; a fresh gateway for each run."""
    plan = run.plan
    rows = []
    for workers in (1, 2):
        runs: list[list[float]] = []
        for drain in range(plan.drains):
            run.say(f"{plan.drained:,} parked polls of {workers} worker(s), SIGTERM, run {drain + 1}")
            directory = plan.directory / f"drain-{workers}-{drain}"
            with gateway(directory, "--workers", str(workers), "--log-level", "warning") as server:
                run.load.ask("park", address=server.address, poll=POLL, wake=WAKE, count=plan.drained, ack=True)
                settle(*family(server))
                runs.append(run.load.ask("drain", limit_s=30, pid=family(server)[0])["ms"])
                run.load.ask("leave")
        together = [each for drain in runs for each in drain]
        last = [max(drain) for drain in runs]
        figures = (percentile(together, 50), percentile(together, 99), middle(last), max(last))
        rows.append((f"{workers} worker(s)", *(f"{each:.0f}" for each in figures), against(max(last), LIMIT_MS, " ms")))
    return Section(
        f"Drain ({plan.drained:,} parked polls on one queue, SIGTERM, {plan.drains} runs)",
        ("gateway of", "p50 ms", "p99 ms", "last ms, median", "last ms, worst", "target"),
        rows,
        "From sending SIGTERM to the supervisor until the whole `204` with `Connection: close` of a poll was read."
        "\np50 and p99: of the polls of all runs. last: the last poll of each run.",
    )
