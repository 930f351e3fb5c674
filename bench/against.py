"""CPU per request compared with another commit: both run in turns, and that commit runs twice as a control.

A round starts three gateways with new processes: `base` and `control` run the other commit, `this` the working tree.
Each has a short turn at each call, several times, in an order that changes. A round's ratio is the median of its turns.
New processes matter: two of the same commit differ for as long as they live, by where their memory happens to be.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from bench.plan import Run
from bench.servers import BenchError, MeasuredServer, cpu_s, descendants, gateway_of
from bench.table import Section

BASE, CONTROL, THIS = "base", "control", "this"
LIMIT: Final = 1.05
"""What `this` may cost of what `base` costs, before the control's deviation is added."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured. rounds: at most. limit_s: no round begins later. turns: of each gateway, call and round.

    units: requests a turn, or pairs of them.
    """

    rounds: int = 9
    limit_s: float = 300.0
    turns: int = 6
    units: int = 500

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ValueError(f"--rounds: {self.rounds} is below the minimum of 2, which a deviation needs")


@dataclass(frozen=True, slots=True)
class MeasuredCall:
    """One row. The calls of a turn leave the queue as they found it."""

    name: str
    method: str
    path: str
    status: str
    ack: bool = False


CALLS: Final = (
    MeasuredCall("enqueue", "POST", "/queues/bench/jobs", "201"),
    MeasuredCall("next + ack (2 requests)", "GET", "/queues/bench/next?timeout=0", "200", ack=True),
    MeasuredCall("next, empty", "GET", "/queues/bench-empty/next?timeout=0", "204"),
)


@dataclass(slots=True)
class Results:
    """One call's. us: each round's median, by gateway. ratios, control: each round's `this` and `control` to `base`."""

    us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ratios: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)

    def add(self, turns: dict[str, list[float]]) -> None:
        """One round: CPU microseconds a unit of each turn, by gateway."""
        for name, us in turns.items():
            self.us[name].append(median(us))
        self.ratios.append(_ratio(turns[THIS], turns[BASE]))
        self.control.append(_ratio(turns[CONTROL], turns[BASE]))

    @property
    def deviation(self) -> float:
        """What the control differs by, though it is the same: its median's distance from 1, or half its quartiles'
        distance from each other where that is more."""
        low, middle, high = quantiles(self.control, n=4)
        return max(abs(middle - 1), (high - low) / 2)

    @property
    def limit(self) -> float:
        return LIMIT + self.deviation

    @property
    def passes(self) -> bool:
        return median(self.ratios) <= self.limit


@dataclass(frozen=True, slots=True)
class Comparison:
    """passes: whether each row keeps to its limit."""

    section: Section
    passes: bool


def measure(run: Run, revision: str, extent: Extent) -> Comparison:
    """Compares the working tree with `revision`. Raises BenchError, also if there is no such commit."""
    here = Path(__file__).parent.parent
    results = {call: Results() for call in CALLS}
    ends_s = time.monotonic() + extent.limit_s
    with checkout(here, revision, run.plan.directory / "revision") as base:
        for number in range(extent.rounds):
            if time.monotonic() > ends_s and number >= 2:
                break
            run.say(f"against {revision}, round {number + 1} of {extent.rounds}")
            _round(run, extent, {BASE: base, CONTROL: base, THIS: here}, number, results)
    return Comparison(_section(results, _described(here, revision)), all(each.passes for each in results.values()))


@contextlib.contextmanager
def checkout(repository: Path, revision: str, folder: Path) -> Iterator[Path]:
    """The files of a commit in `folder`, which is removed in the end. Raises BenchError."""
    _git(repository, "worktree", "add", "--quiet", "--detach", str(folder), revision)
    try:
        yield folder
    finally:
        _git(repository, "worktree", "remove", "--force", str(folder))


def _round(run: Run, extent: Extent, roots: dict[str, Path], number: int, results: dict[MeasuredCall, Results]) -> None:
    with contextlib.ExitStack() as stack:
        gateways = {
            name: stack.enter_context(
                gateway_of(root, run.plan.directory / f"{number}-{name}", "--log-level", "warning")
            )
            for name, root in roots.items()
        }
        turns: dict[MeasuredCall, dict[str, list[float]]] = {call: defaultdict(list) for call in CALLS}
        for turn in range(-1, extent.turns):  # the first one connects and fills caches, and does not count
            names = list(gateways)
            names = names[turn % 3 :] + names[: turn % 3]
            for call in CALLS:
                for name in names:
                    us = _turn(run, gateways[name], call, extent.units)
                    if turn >= 0:
                        turns[call][name].append(us)
        for call in CALLS:
            results[call].add(turns[call])


def _turn(run: Run, server: MeasuredServer, call: MeasuredCall, units: int) -> float:
    """CPU microseconds a unit, of all processes of the gateway, its broker among them."""
    request = {"method": call.method, "path": call.path, "body": call.method == "POST"}
    run.load.ask(
        "open", kind="http", address=server.address, connections=run.plan.connections, request=request,
        status=call.status, ack=call.ack,
    )  # fmt: skip
    pids = [server.pid, *descendants(server.pid)]
    before_s = sum(map(cpu_s, pids))
    run.load.ask("run", units=units)
    spent_s = sum(map(cpu_s, pids)) - before_s
    run.load.ask("close")
    return spent_s / units * 1e6


def _ratio(mine: Sequence[float], other: Sequence[float]) -> float:
    return median(one / another for one, another in zip(mine, other, strict=True))


def _section(results: dict[MeasuredCall, Results], described: str) -> Section:
    rounds = len(next(iter(results.values())).ratios)
    return Section(
        f"The working tree against {described} (gateway and broker, {rounds} rounds)",
        ("call", "base us", "this us", "this / base", "control / base", "limit", "verdict"),
        [
            (
                call.name,
                f"{median(each.us[BASE]):.0f}",
                f"{median(each.us[THIS]):.0f}",
                _spread(each.ratios),
                _spread(each.control),
                f"{each.limit:.3f}",
                "pass" if each.passes else "NOT PASSED",
            )
            for call, each in results.items()
        ],
        f"us: CPU microseconds of all processes. Ratios: median (quartiles) of the rounds. limit: {LIMIT:g} and the"
        "\ncontrol's deviation: its median's distance from 1, or half its quartiles' distance where that is more.",
    )


def _spread(ratios: Sequence[float]) -> str:
    low, half, high = quantiles(ratios, n=4)
    return f"{half:.3f} ({low:.3f}-{high:.3f})"


def _described(repository: Path, revision: str) -> str:
    commit = _git(repository, "rev-parse", "--short", f"{revision}^{{commit}}")
    return revision if revision.startswith(commit) else f"{revision} ({commit})"


def _git(repository: Path, *arguments: str) -> str:
    """What git prints. Raises BenchError."""
    ran = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True)
    if ran.returncode:
        raise BenchError(f"git {arguments[0]}: {ran.stderr.strip()}")
    return ran.stdout.strip()
