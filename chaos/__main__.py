"""`python -m chaos [storm|faults|redelivery|closing] [...]`: checks the promises; prints figures and the seed.

Exit status: 0 all promises were kept, 1 one was broken, 2 the run failed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.table import percentile
from chaos.broker_faults import BROKER_FAULTS
from chaos.checker import Kind, RunVerdict
from chaos.closing import PROGRAMS, present
from chaos.faults import FAULTS
from chaos.processes import ProcessError, Processes
from chaos.redelivery import Moment, Redelivery, of_consumers, of_gateways
from chaos.schedule import CLUSTER, EMBEDDED, FaultProfile
from chaos.storm import StormPlan, run


def storm(asked: argparse.Namespace) -> int:
    """Everything is killed and frozen while jobs pass; the checker judges."""
    seed = asked.seed if asked.seed is not None else random.randrange(1_000_000)
    verdict = run(_plan(asked, seed), _say)
    flags = "--embedded " * asked.embedded + "--kills-only " * asked.kills_only
    print(report(verdict, seed, asked.seconds, flags))
    return 1 if verdict.violations else 0


def _plan(asked: argparse.Namespace, seed: int) -> StormPlan:
    return StormPlan(
        asked.directory,
        seed,
        asked.seconds,
        KILLS if asked.kills_only else ALONE if asked.embedded else None,
        asked.app,
        layout=EMBEDDED if asked.embedded else CLUSTER,
    )


ALONE = FaultProfile(pause_s=1.6)
"""For one gateway: it must have time to work between two faults."""
KILLS = FaultProfile(pause_s=1.6, clients=0.1, workers=0.55, replicas=0.05, servers=0.3, kills=1.0)


SHOWN = 20
"""Violations printed; all are in the ledger."""


def faults(asked: argparse.Namespace) -> int:
    """Short runs of gateways with a planted fault: each must be found out."""
    seed = asked.seed if asked.seed is not None else 1
    blind = []
    for name in EXPECTED:
        found = find(name, asked.directory / name, seed)
        print(
            f"{name}: " + (", ".join(f"{count} {what.value}" for what, count in found.items()) or "NOT NOTICED"),
            flush=True,
        )
        if not found[EXPECTED[name]]:
            blind.append(name)
    return 1 if blind else 0


def find(fault: str, directory: Path, seed: int) -> Counter[Kind]:
    """What the checker reports of a gateway with the fault; the run is longer each time until it finds the fault."""
    found: Counter[Kind] = Counter()
    for number, seconds in enumerate(FAULT_S):
        plan = StormPlan(
            directory / str(number),
            seed,
            seconds,
            OF_THE_LINK.get(fault, INTENSE),
            f"chaos.faults:{fault}" if fault in FAULTS else "",
            QUIET_S if fault in OF_THE_LINK else FAULT_CALM_S,
            EMBEDDED if fault in OF_THE_LINK else CLUSTER,
            fault if fault in BROKER_FAULTS else "",
        )
        found = Counter(each.kind for each in run(plan, _say).violations)
        if found[EXPECTED[fault]]:
            break
    return found


def redelivery(asked: argparse.Namespace) -> int:
    """How soon the job of a dead consumer, or of a dead gateway, reaches the next consumer."""
    seed = asked.seed if asked.seed is not None else random.randrange(1_000_000)
    kept = True
    with Processes(asked.directory / "consumers", servers=1, replicas=1, workers=1) as processes:
        for moment in Moment:
            measured = of_consumers(processes.ports[0], moment, asked.rounds, random.Random(seed))
            kept &= _told(f"consumer killed {moment.value}", measured, 20.0)
    with Processes(asked.directory / "gateways", servers=1, replicas=2, workers=2) as processes:
        kept &= _told("gateway killed with kill -9", of_gateways(processes, max(3, asked.rounds // 20)), 1000.0)
    print(f"seed {seed}")
    return 0 if kept else 1


def _told(what: str, measured: Redelivery, limit_ms: float) -> bool:
    """Prints a measurement; whether it meets its target and nothing was lost."""
    p50_ms, p99_ms = percentile(measured.took_ms, 50), percentile(measured.took_ms, 99)
    met = p99_ms < limit_ms and not measured.lost
    print(
        f"{what}: {len(measured.took_ms)} times, p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms "
        f"(target p99 < {limit_ms:g} ms: {'ok' if met else 'MISSED'}); "
        f"{measured.at_lease_end} had been answered and came back with the lease's end; {measured.lost} lost",
        flush=True,
    )
    return met


def closing(asked: argparse.Namespace) -> int:
    """Clients of three programs close at awkward moments: nothing may be stranded."""
    seed = asked.seed if asked.seed is not None else random.randrange(1_000_000)
    kept = True
    with Processes(asked.directory, servers=1, replicas=1, workers=2) as processes:
        for name, measure in PROGRAMS.items():
            if not present(name):
                print(f"{name}: is not on this machine")
                continue
            found = measure(processes, asked.rounds, seed)
            kept &= not found.stranded and not found.again
            print(
                f"{name}: {asked.rounds} polls, {found.stored} jobs: {found.read} answers read whole, {found.acked} "
                f"acked; {found.at_once} given back before the lease's end, {found.by_lease_end} with it; "
                f"{found.stranded} stranded, {found.again} delivered again after the ack",
                flush=True,
            )
    print(f"seed {seed}")
    return 0 if kept else 1


INTENSE = FaultProfile(pause_s=0.5, clients=0.0, workers=1.0, replicas=0.0, servers=0.0, kills=1.0)
"""Workers are killed all the time, nothing is frozen: what a fault needs to show itself."""
FROZEN = FaultProfile(pause_s=0.5, clients=0.0, workers=0.0, replicas=0.0, servers=1.0, kills=0.0)
"""The broker is frozen again and again: workers give up, and its answers come late."""
QUIET_S = 15.0
"""Until the broker's figures show that everything was taken."""
OF_THE_LINK = {"ack_before_the_commit": INTENSE, "cancelled_item_dropped": FROZEN, "reads_dropped_at_eof": INTENSE}
"""Faults of the multiplexed connection to an embedded broker."""
FAULT_S = (5.0, 10.0, 20.0, 40.0)
"""How long a fault may stay hidden, on a slow machine, too."""
FAULT_CALM_S = 0.5
EXPECTED = {
    "ack_before_confirm": Kind.REPEATED,
    "drop_instead_of_give_back": Kind.VANISHED,
    "move_that_confirms_first": Kind.VANISHED,
    "delay_in_memory": Kind.LOST,
    "delay_that_is_cut_short": Kind.EARLY,
    "pause_in_one_worker": Kind.PAUSED,
    "subscription_on_one_server": Kind.LOST,
    "several_queues_that_drop_losers": Kind.LOST,
    "ack_before_the_commit": Kind.REPEATED,
    "cancelled_item_dropped": Kind.LOST,
    "reads_dropped_at_eof": Kind.ODD,
}
COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "storm": storm,
    "faults": faults,
    "redelivery": redelivery,
    "closing": closing,
}


def report(verdict: RunVerdict, seed: int, seconds: float, flags: str = "") -> str:
    """A verdict for people."""
    lines = [f"chaos, seed {seed}, {seconds:g} s"]
    lines += [f"  {count:>8,}  {what}" for what, count in verdict.figures.items()]
    lines += [f"  {count:>8,}  redelivered: {what}" for what, count in sorted(verdict.redelivered.items())]
    lines += [f"  {count:>8,}  second copies: {what}" for what, count in sorted(verdict.repeated.items())]
    lines += [f"VIOLATION {each.kind.value}: {each.subject}: {each.detail}" for each in verdict.violations[:SHOWN]]
    again = f"{flags}--seconds {seconds:g} --seed {seed}"
    lines.append(f'{len(verdict.violations)} violations (again with: make chaos ARGS="{again}")')
    return "\n".join(lines)


def main() -> int:
    """Runs one command in a directory of its own, which stays when a promise was broken."""
    # A plain `kill` unwinds like Ctrl-C does: what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _arguments()
    kept = asked.directory is not None
    asked.directory = asked.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    status = 2
    try:
        status = COMMANDS[asked.command](asked)
    except ProcessError as exc:
        print(f"chaos: {exc}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
        return status
    finally:
        if status and status != 130:
            print(f"ledgers and logs: {asked.directory}", file=sys.stderr)
        elif not kept:
            shutil.rmtree(asked.directory, ignore_errors=True)
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("command", nargs="?", default="storm", choices=COMMANDS, help="default: storm")
    parser.add_argument(
        "--embedded", action="store_true", help="one gateway with three workers and its embedded broker, for the storm"
    )
    parser.add_argument("--kills-only", action="store_true", help="every fault of the storm is a kill")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the storm lasts (default: 60)")
    parser.add_argument("--rounds", type=int, default=400, help="rounds of redelivery and of closing (default: 400)")
    parser.add_argument(
        "--seed", type=int, help="seed of the schedule and of every client's random choices (default: a new one)"
    )
    parser.add_argument(
        "--directory", type=Path, help="where to keep data, logs and ledgers (default: a temporary directory)"
    )
    parser.add_argument(
        "--app", default="", help="application for the workers instead of the gateway, such as one of chaos.faults"
    )
    return parser.parse_args()


def _say(what: str) -> None:
    print(f"  {what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
