"""`python -m bench [--quick] [--markdown FILE] [--directory DIR] [NAME...]`: one run, one table.

`python -m bench --against REV [--rounds N] [--seconds S]`: CPU per request compared with another commit. Exit code 1 if
it is more than allowed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import (
    against,
    case_batches,
    case_broker,
    case_cluster,
    case_delay,
    case_drain,
    case_idle,
    case_large,
    case_leases,
    case_parked,
    case_requests,
    case_stream,
    scenarios,
)
from bench.plan import BenchPlan, Run, quick
from bench.servers import BenchError, Load
from bench.table import Section

CASES: dict[str, Callable[[Run], Section]] = {
    "requests": case_requests.measure,
    "batches": case_batches.measure,
    "stream": case_stream.measure,
    "parked": case_parked.measure,
    "idle": case_idle.measure,
    "leases": case_leases.measure,
    "drain": case_drain.measure,
    "delay": case_delay.measure,
    "large": case_large.measure,
    "cluster": case_cluster.measure,
    "sets": case_broker.sets,
    "backlog": case_broker.backlog,
}


def main() -> int:
    """Measures what was asked for, prints the table, and returns the exit status."""
    asked = _arguments()
    # A plain `kill` unwinds like Ctrl-C does: servers are stopped and their data is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=asked.directory))
    plan = quick(directory) if asked.quick else BenchPlan(directory)
    sections: list[Section] = []
    passes = True
    try:
        with Load() as load:
            if asked.against:
                compared = against.measure(Run(plan, load), asked.against, asked.extent)
                print(compared.section.text(), flush=True)
                sections, passes = [compared.section], compared.passes
            elif asked.scenario:
                sections = [scenarios.measure(Run(plan, load), asked.scenario, asked.base, asked.turns, asked.units)]
                print(sections[0].text(), flush=True)
            for name in asked.names:
                sections.append(CASES[name](Run(plan, load)))
                print(f"{sections[-1].text()}\n", flush=True)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if asked.markdown:
        asked.markdown.write_text("\n\n".join(section.markdown() for section in sections) + "\n")
    return 0 if passes else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(CASES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, polls and jobs: under a minute")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table to FILE, as Markdown")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(__file__).parent / "results",
        help="directory for the servers' data, on a real disk because of fsync (default: bench/results)",
    )
    beside = parser.add_argument_group("comparison with another commit, instead of the cases")
    beside.add_argument("--against", metavar="REV", help="a commit, a tag or a branch of this repository")
    beside.add_argument(
        "--rounds", type=int, metavar="N", help="number of rounds, each with new processes (default: 9; --quick: 3)"
    )
    beside.add_argument(
        "--seconds", type=float, metavar="S", default=300.0, help="start no round after S seconds (default: 300)"
    )
    one = parser.add_argument_group("one call compared with another commit, a control and an echo, in many short turns")
    one.add_argument("--scenario", choices=scenarios.SCENARIOS, metavar="NAME", help=", ".join(scenarios.SCENARIOS))
    one.add_argument("--base", metavar="REV", default="v0.1.0", help="the other commit (default: v0.1.0)")
    one.add_argument("--turns", type=int, metavar="N", default=35, help="turns of each gateway (default: 35)")
    one.add_argument("--units", type=int, metavar="N", default=0, help="units of a turn (default: the scenario's)")
    asked = parser.parse_args()
    if asked.against and asked.names:
        parser.error("--against: it measures calls of its own; leave out the names of cases")
    for name in asked.names:
        if name not in CASES:
            parser.error(f"no case {name!r}: there are {', '.join(CASES)}")
    asked.names = [] if asked.against or asked.scenario else asked.names or list(CASES)
    try:
        asked.extent = against.Extent(asked.rounds or (3 if asked.quick else 9), asked.seconds, 3 if asked.quick else 6)
    except ValueError as exc:
        parser.error(str(exc))
    return asked


if __name__ == "__main__":
    sys.exit(main())
