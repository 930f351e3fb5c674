"""One run: clients at work through replicas, faults as the schedule has them, then calm, and what is left is counted.

Order: everything ready; clients start; faults; all is thawed and started again; consumers ack what there is; clients
and replicas end; the servers' queues are emptied into the ledger; the checker reads it.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos import ledger, schedule
from chaos.checker import RunVerdict, check
from chaos.client import CHILD, SUBSCRIBED
from chaos.lease_counters import imbalances
from chaos.ledger import EventFile, Fault, Odd
from chaos.pauses import OPERATORS
from chaos.processes import ENVIRONMENT, ProcessError, Processes, left_behind, waiting
from chaos.schedule import BATCHING, CLUSTER, CONSUMERS, PRODUCERS, STREAMING, FaultProfile, Layout, PlannedFault
from tests.lab.commands import run_process
from tests.lab.http import HttpClient
from tests.lab.ports import HOST

CALM_S = 40.0
REVIVE_S = 0.25
FLAGS = ("--kestrel-command-timeout", "1.5", "--kestrel-connect-timeout", "1", "--grace", "0.5")
SECRET = "chaos-runs-on-loopback-and-keeps-no-secret"


@dataclass(frozen=True, slots=True)
class StormPlan:
    """One run. directory: empty or new, holds everything. app: another application for the replicas' workers.

    calm_s: how long consumers may take to empty the queues after the last fault. broker_fault: see chaos.broker_faults.
    """

    directory: Path
    seed: int
    seconds: float
    profile: FaultProfile | None = None
    app: str = ""
    calm_s: float = CALM_S
    layout: Layout = CLUSTER
    broker_fault: str = ""


def run(plan: StormPlan, say: Callable[[str], None]) -> RunVerdict:
    """Carries out the plan and judges it. Raises ProcessError where something did not come up at all."""
    layout = plan.layout
    flags = [*FLAGS, *(["--app", plan.app] if plan.app else [])]
    if layout.replicas > 1:
        flags += cluster_flags()
    faults = schedule.make(plan.seed, plan.seconds, plan.profile, layout)
    folder = plan.directory / "ledger"
    with Processes(
        plan.directory,
        servers=layout.servers,
        replicas=layout.replicas,
        workers=layout.workers,
        flags=flags,
        broker_fault=plan.broker_fault,
    ) as processes:
        subscribe(processes.ports[0])
        storm = _Storm(plan, processes, EventFile(folder / "storm.jsonl"), offers(processes.ports[0]))
        say(f"{len(faults)} faults in {plan.seconds:g} s, seed {plan.seed}")
        storm.inject(faults)
        say("calm")
        storm.calm()
    return check(ledger.read(folder))


def subscribe(port: int) -> None:
    """Creates the subscription that the clients read. Raises ProcessError."""
    http = HttpClient(port, 10.0)
    answer = http.ask("PUT", f"/queues/{SUBSCRIBED}/subscriptions/{CHILD}")
    http.close()
    if answer.status not in (200, 201):
        raise ProcessError(f"the subscription was not created: {answer.status} {answer.body!r}")


def offers(port: int) -> frozenset[str]:
    """What this gateway can do beyond the least: the names of `found`."""
    http = HttpClient(port, 10.0)
    contract = http.ask("GET", "/openapi.json").json()
    http.close()
    text = json.dumps(contract)
    found = {"tail": '"tail"' in text, "reject": "/leases/{lease}/reject" in contract["paths"]}
    found |= {"settle": "/leases/settle" in contract["paths"], "ack-next": "Lease-Acked" in text}
    found |= {
        "stream": "/queues/{queue}/stream" in contract["paths"],
        "batch": "/leases/{lease}/settle" in contract["paths"],
        "several": "/next" in contract["paths"],
        "keys": "Idempotency-Key" in text,
        "delay": '"due_at"' in text,
        "pause": "/queues/{queue}/pause" in contract["paths"],
        "cluster": bool(cluster_flags()),
    }
    return frozenset(name for name, there in found.items() if there)


@functools.cache
def cluster_flags() -> tuple[str, ...]:
    """What makes replicas forward to one another, and batches of Kestrel servers have many jobs, where they can."""
    command = [sys.executable, "-P", "-m", "gateway", "serve", "--help"]
    told = run_process(command, env=ENVIRONMENT).stdout
    if "--advertise" not in told or "--cluster-secret" not in told:
        return ()
    many = ("--kestrel-open-reads", "20") if "--kestrel-open-reads" in told else ()
    return ("--advertise", f"http://{HOST}:{{port}}", "--cluster-secret", SECRET, *many)


class _Storm:
    def __init__(self, plan: StormPlan, processes: Processes, ledger: EventFile, offered: frozenset[str]) -> None:
        self._plan = plan
        self._processes = processes
        self._ledger = ledger
        self._offered = offered
        self._lives: dict[str, int] = {}
        self._down: set[str] = set()
        self._began_s = time.monotonic()

    def inject(self, faults: Sequence[PlannedFault]) -> None:
        """Starts the clients and carries out the faults; when it returns all that was hit is up again, or starting."""
        names = [f"producer-{each}" for each in range(PRODUCERS)] + [f"consumer-{each}" for each in range(CONSUMERS)]
        if "pause" in self._offered:
            names += [f"operator-{each}" for each in range(OPERATORS)]
        self._began_s = time.monotonic()
        for name in names:
            self._start(name)
        order = itertools.count()
        due: list[tuple[float, int, PlannedFault, float]] = [(fault.at_s, next(order), fault, -1.0) for fault in faults]
        heapq.heapify(due)
        while due:
            at_s, _, fault, began_s = heapq.heappop(due)
            self._sleep_until(self._began_s + at_s)
            if began_s < 0:
                now = time.monotonic()
                if self._processes.begin(fault):
                    self._down.add(fault.target)
                    heapq.heappush(due, (at_s + fault.length_s, next(order), fault, now))
                else:
                    self._ledger.write(Fault(t=now, end=now, target=fault.target, action="missed"))
            else:
                self._finish(fault)
                self._ledger.write(Fault(t=began_s, end=time.monotonic(), target=fault.target, action=fault.action))
        self._sleep_until(self._calm_at)

    def calm(self) -> None:
        """The consumers empty the queues; what they leave goes to the ledger, with the dead letters."""
        self._revive()
        self._processes.until_ready()
        deadline_s = time.monotonic() + self._plan.calm_s
        quiet = 0
        while quiet < 3 and time.monotonic() < deadline_s:
            try:
                quiet = 0 if sum(map(waiting, self._processes.server_ports)) else quiet + 1
            except OSError:  # an embedded broker that was killed is not back yet
                quiet = 0
            time.sleep(0.3)
        for client in self._processes.clients.values():
            client.kill()
        self._check_counters()
        for replica in self._processes.replicas:
            replica.terminate()
        for replica in self._processes.replicas:
            replica.stop()
        self._processes.serve_data()
        for number, port in enumerate(self._processes.server_ports):
            for left in left_behind(port, number):
                self._ledger.write(left)
                if quiet == 3 and not left.queue.endswith("dead"):
                    what = f"{left.token} is on {left.queue}, which had no items and no open reads by its figures"
                    self._ledger.write(Odd(t=time.monotonic(), who=f"server-{number}", what=what))

    def _check_counters(self) -> None:
        """Writes to the ledger what does not balance in the replicas' counters of leases."""
        for number, port in enumerate(self._processes.ports):
            http = HttpClient(port, 10.0)
            for what in imbalances(http.ask("GET", "/metrics").body.decode()):
                self._ledger.write(Odd(t=time.monotonic(), who=f"replica-{number}", what=what))
            http.close()

    @property
    def _calm_at(self) -> float:
        return self._began_s + self._plan.seconds

    def _finish(self, fault: PlannedFault) -> None:
        self._processes.finish(fault)
        self._down.discard(fault.target)
        if not fault.action.startswith("kill") or fault.target.startswith(("worker", "broker")):
            return
        if fault.target.startswith(("producer", "consumer")):
            self._start(fault.target)
        else:
            self._processes.process(fault.target).start()

    def _start(self, name: str) -> None:
        life = self._lives[name] = self._lives.get(name, 0) + 1
        kind = name.partition("-")[0]
        program = "chaos.pauses" if kind == "operator" else "chaos.client"
        if "stream" in self._offered and name in STREAMING:
            program = "chaos.streaming"
        if "batch" in self._offered and name in BATCHING:
            program = "chaos.batching"
        arguments = [program, kind, "--name", name, "--life", str(life)]
        arguments += ["--seed", str(self._plan.seed), "--ports", ",".join(map(str, self._processes.ports))]
        arguments += ["--ledger", str(self._plan.directory / "ledger"), "--calm-at", repr(self._calm_at)]
        self._processes.client(name, [*arguments, "--offers", ",".join(sorted(self._offered))])

    def _sleep_until(self, instant_s: float) -> None:
        """Sleeps, and in the meantime restarts processes that end by themselves, as a service manager would."""
        while (left_s := instant_s - time.monotonic()) > 0:
            time.sleep(min(left_s, REVIVE_S))
            self._revive()

    def _revive(self) -> None:
        for process in [*self._processes.servers, *self._processes.replicas]:
            if not process.running and process.name not in self._down:
                process.kill()
                process.start()
                now = time.monotonic()
                self._ledger.write(Fault(t=now, end=now, target=process.name, action="ended"))
