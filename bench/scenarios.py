"""One call at a time, compared with another commit, a control and a bare echo, in many short turns.

Each scenario starts its gateways and an echo once. In each turn every one of them has its units, in a changing order.
The ratio of a turn is the CPU of a gateway, broker included, over that of another one in the same turn.
A verdict counts only if the control, the same commit twice, is near 1 (CONTROL_MEDIAN, CONTROL_QUARTILES).
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from bench.against import BASE, CONTROL, THIS, checkout
from bench.plan import Run
from bench.servers import MeasuredServer, cpu_s, descendants, echo, gateway_of
from bench.table import Section
from gateway.config.keys import new
from tests.lab.ports import free_port

ECHO: Final = "echo"
CONTROL_MEDIAN: Final = (0.95, 1.05)
CONTROL_QUARTILES: Final = (0.85, 1.15)
BATCH: Final = 100
"""Jobs of a request with many."""
FEW, MANY = 100, 1_000_000
"""Jobs that wait in the scenario `flat`."""
QUEUE = "/queues/bench"
QUIET: Final = ("--log-level", "warning")


@dataclass(frozen=True, slots=True)
class ScenarioCall:
    """What a unit is. jobs: of one request, which is so many units. follow: what the load generator sends after an
    answer with a lease: nothing, `ack`, or `next`, the same request with the ack in it.

    filled: whether the units take jobs, which are enqueued before. yardstick: the echo's methods that a unit equals.
    """

    method: str
    path: str
    status: str
    follow: str = ""
    jobs: int = 1
    filled: bool = False
    yardstick: tuple[str, ...] = ("POST",)


@dataclass(frozen=True, slots=True)
class Scenario:
    """target: the most that `ratio_of` may be; None: it is only reported. units: of a turn.

    gateways: by name, which commit each runs and its flags. ratio_of: the two gateways whose CPU is compared.
    """

    call: ScenarioCall
    units: int
    target: float | None
    gateways: dict[str, tuple[str, tuple[str, ...]]] = field(
        default_factory=lambda: {BASE: (BASE, QUIET), CONTROL: (BASE, QUIET), THIS: (THIS, QUIET)}
    )
    ratio_of: tuple[str, str] = (THIS, BASE)
    waiting: dict[str, int] = field(default_factory=dict)


_ENQUEUE: Final = ScenarioCall("POST", f"{QUEUE}/jobs", "201")
_NEXT: Final = ScenarioCall("GET", f"{QUEUE}/next?timeout=0", "200", "ack", filled=True, yardstick=("GET", "POST"))
SCENARIOS: Final[dict[str, Scenario]] = {
    "enqueue": Scenario(_ENQUEUE, 2_000, 0.75),
    "next-ack": Scenario(_NEXT, 2_000, 0.50),
    "ack-and-next": Scenario(
        ScenarioCall("GET", f"{QUEUE}/next?timeout=0", "200", "next", filled=True, yardstick=("GET",)), 2_000, 0.45
    ),
    "batch": Scenario(ScenarioCall("POST", f"{QUEUE}/jobs", "201", jobs=BATCH), 20_000, 0.50),
    "log-line": Scenario(
        _ENQUEUE,
        2_000,
        None,
        {BASE: (THIS, QUIET), CONTROL: (THIS, QUIET), THIS: (THIS, ("--log-level", "info"))},
    ),
    "keys": Scenario(
        _ENQUEUE, 2_000, 1.10, {BASE: (THIS, QUIET), CONTROL: (THIS, QUIET), THIS: (THIS, (*QUIET, "--keys", "{keys}"))}
    ),
    "flat": Scenario(
        _NEXT, 1_000, 1.15, {BASE: (THIS, QUIET), CONTROL: (THIS, QUIET), THIS: (THIS, QUIET)},
        waiting={BASE: FEW, CONTROL: FEW, THIS: MANY},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Samples:
    """CPU microseconds a unit, by gateway and turn; those of the echo are for as many requests."""

    us: dict[str, list[float]]
    per_s: dict[str, list[float]]

    def ratios(self, mine: str, other: str) -> list[float]:
        return [one / another for one, another in zip(self.us[mine], self.us[other], strict=True)]

    @property
    def control_counts(self) -> bool:
        """Whether the same commit twice is near enough to itself."""
        low, middle, high = quantiles(self.ratios(CONTROL, BASE), n=4)
        return (
            CONTROL_MEDIAN[0] <= middle <= CONTROL_MEDIAN[1]
            and low >= CONTROL_QUARTILES[0]
            and high <= CONTROL_QUARTILES[1]
        )


def measure(run: Run, name: str, revision: str, turns: int, units: int = 0) -> Section:
    """Runs one scenario. units: other than those of the scenario. Raises BenchError."""
    scenario = replace(SCENARIOS[name], units=units) if units else SCENARIOS[name]
    here = Path(__file__).parent.parent
    folder = run.plan.directory / name
    folder.mkdir(parents=True)
    secret, table = new("bench", "bench", ["produce", "consume", "admin"])
    keys = folder / "keys.toml"
    keys.write_text(table)
    with contextlib.ExitStack() as stack:
        roots = {THIS: here}
        if any(commit == BASE for commit, _ in scenario.gateways.values()):
            roots[BASE] = stack.enter_context(checkout(here, revision, folder / "revision"))
        servers: dict[str, MeasuredServer] = {ECHO: stack.enter_context(echo(folder))}
        bearers = {ECHO: ""}
        for gateway, (commit, flags) in scenario.gateways.items():
            memcache = f"127.0.0.1:{free_port()}"
            given = [flag.replace("{keys}", str(keys)) for flag in flags]
            servers[gateway] = stack.enter_context(
                gateway_of(roots[commit], folder / gateway, *given, "--broker-listen", memcache)
            )
            bearers[gateway] = f"Authorization: Bearer {secret}\r\n" if "--keys" in given else ""
            if count := scenario.waiting.get(gateway):
                run.say(f"{gateway}: {count:,} jobs wait")
                run.load.ask("fill", address=memcache, queue="bench", count=count)
        samples = _turns(run, scenario, servers, bearers, turns)
    return _section(name, scenario, samples, revision)


def _turns(
    run: Run, scenario: Scenario, servers: dict[str, MeasuredServer], bearers: dict[str, str], turns: int
) -> Samples:
    samples = Samples(defaultdict(list), defaultdict(list))
    names = list(servers)
    for turn in range(-1, turns):  # the first one connects and fills caches, and does not count
        run.say(f"turn {turn + 1} of {turns}")
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            us, per_s = (
                _echo_turn(run, servers[name], scenario)
                if name == ECHO
                else _turn(run, servers[name], scenario, bearers[name], keep=bool(scenario.waiting))
            )
            if turn >= 0:
                samples.us[name].append(us)
                samples.per_s[name].append(per_s)
    return samples


def _turn(run: Run, server: MeasuredServer, scenario: Scenario, bearer: str, *, keep: bool) -> tuple[float, float]:
    """CPU microseconds a unit, of all processes of the gateway, and units a second. keep: the queue is not emptied."""
    call, units, address = scenario.call, scenario.units, server.address
    if call.filled:
        more = units + (run.plan.connections if call.follow == "next" else 0)
        enqueue = _request("POST", f"{QUEUE}/jobs", bearer, BATCH)
        _work(run, address, enqueue, "201", "", -(-more // BATCH), lambda: None)
    pids = [server.pid, *descendants(server.pid)]
    request = _request(call.method, call.path, bearer, call.jobs)
    spent = [0.0]

    def cpu() -> None:
        spent.append(sum(map(cpu_s, pids)))

    seconds = _work(run, address, request, call.status, call.follow, units // call.jobs, cpu)
    if not keep:
        flush = _request("POST", f"{QUEUE}/flush", bearer, 0)
        _work(run, address, flush, "", "", 1, lambda: None)
    return (spent[-1] - spent[-2]) / units * 1e6, units / seconds


def _echo_turn(run: Run, server: MeasuredServer, scenario: Scenario) -> tuple[float, float]:
    """The same number of requests of the same methods."""
    used_s: list[float] = []
    seconds = 0.0
    for method in scenario.call.yardstick:
        request = _request(method, "/echo", "", scenario.call.jobs)
        count = scenario.units // scenario.call.jobs
        seconds += _work(run, server.address, request, "200", "", count, lambda: used_s.append(cpu_s(server.pid)))
    spent_s = sum(after - before for before, after in zip(used_s[::2], used_s[1::2], strict=True))
    return spent_s / scenario.units * 1e6, scenario.units / seconds


def _work(  # noqa: PLR0917 (one call of the load generator)
    run: Run, address: str, request: dict[str, Any], status: str, follow: str, count: int, around: Callable[[], None]
) -> float:
    """Sends so many requests. around: called before and after. Returns the seconds."""
    connections = min(run.plan.connections, count)
    run.load.ask(
        "open",
        kind="http",
        address=address,
        connections=connections,
        request=request,
        status=status,
        ack=follow == "ack",
        chain=follow == "next",
    )
    around()
    seconds = run.load.ask("run", units=count)["seconds"]
    around()
    run.load.ask("close")
    return float(seconds)


def _request(method: str, path: str, headers: str, jobs: int) -> dict[str, Any]:
    return {"method": method, "path": path, "body": method == "POST" and jobs > 0, "headers": headers, "jobs": jobs}


def _section(name: str, scenario: Scenario, samples: Samples, revision: str) -> Section:
    mine, other = scenario.ratio_of
    ratios = samples.ratios(mine, other)
    rows = []
    for gateway in [*scenario.gateways, ECHO]:
        us = samples.us[gateway]
        rows.append(
            (
                gateway,
                _spread(us, 1),
                f"{median(samples.per_s[gateway]):,.0f}",
                _spread(samples.ratios(gateway, ECHO)),
                _spread(samples.ratios(gateway, other)),
            )
        )
    log_us = [one - another for one, another in zip(samples.us[mine], samples.us[other], strict=True)]
    said = f"{mine} / {other}: {median(ratios):.3f}"
    if name == "log-line":
        said = f"a log line: {median(log_us):.1f} us (target <= 6)"
    elif scenario.target is not None:
        said += f" (target <= {scenario.target:g}: {'met' if median(ratios) <= scenario.target else 'MISSED'})"
    control = "counts" if samples.control_counts else "DOES NOT COUNT, the machine is not quiet enough"
    return Section(
        f"{name}, {len(ratios)} turns of {scenario.units:,} units, against {revision}",
        ("gateway", "us a unit", "units a second", "x echo", f"x {other}"),
        rows,
        f"{said}. The control {control}: {_spread(samples.ratios(CONTROL, BASE))}; it must be within "
        f"{CONTROL_MEDIAN[0]:g} to {CONTROL_MEDIAN[1]:g}, its quartiles within {CONTROL_QUARTILES[0]:g} to "
        f"{CONTROL_QUARTILES[1]:g}.\nus: CPU microseconds of all processes. Medians (quartiles) of the turns.",
    )


def _spread(values: Sequence[float], digits: int = 3) -> str:
    low, half, high = quantiles(values, n=4)
    return f"{half:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
