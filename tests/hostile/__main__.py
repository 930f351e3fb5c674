"""`python -m tests.hostile [--scopes admin] [--seconds 60] [--only filters ...]`: a quiet tenant next to a hostile one.

The quiet tenant works alone first, then beside the attack, in the same way and at the same pace. Prints its latencies
in both, what the hostile tenant was answered, and the memory of each process before, during and after the attack.
Exit status: 0 the quiet tenant did not notice; 1 it did, or memory was above its bound or was not returned.

The tenants share the gateway's processors; priority.py says how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.settings import Settings
from tests.api.keyring import Keyring
from tests.hostile.attacks import ATTACKS
from tests.hostile.priority import going_first
from tests.hostile.victim import Tenant, WorkerFigures
from tests.lab.gateway import Running
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port
from tests.lab.processes import children_of

SLOWER = 3.0
"""The quiet tenant's 99th percentile may be so many times that of its time alone."""
CALLS = ("enqueue", "next", "ack")
MIB = 1 << 20
BACK_S = 45.0
BACK_MIB = 100
"""What a process may hold more than before, when the attack is over for BACK_S."""


class Memory:
    """The resident memory of a gateway's processes, looked at ten times a second. MiB, by process."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self.most: dict[str, int] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def now(self) -> dict[str, int]:
        found = {}
        for process, command in children_of(self._gateway.process.pid).items():
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{process}/status").read_text().splitlines()
                kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
                found["broker" if "broker" in command else "worker"] = kib // 1024
        return found

    def _look(self) -> None:
        while not self._ends.wait(0.1):
            for name, mib in self.now().items():
                self.most[name] = max(mib, self.most.get(name, 0))

    def stop(self) -> None:
        self._ends.set()
        self._thread.join()


def bound_mib(settings: Settings) -> int:
    """The memory of a worker, as docs/limits.md bounds it."""
    connections = settings.max_connections * 8192
    return 100 + (connections + 3 * settings.max_buffer_bytes + settings.max_lease_bytes) // MIB


@dataclass(slots=True)
class Run:
    """What came of it."""

    quiet: WorkerFigures
    beside: WorkerFigures
    refused: dict[str, dict[str, int]]
    before: dict[str, int]
    most: dict[str, int]
    after: dict[str, int]

    def broken(self) -> list[str]:
        """What the quiet tenant was promised and did not get, and memory above its bound; in words."""
        found = [f"alone: {fault}" for fault in self.quiet.faults] + self.beside.faults
        if self.most.get("worker", 0) > bound_mib(Settings()):
            found.append(f"the worker's memory: {self.most['worker']} MiB is above {bound_mib(Settings())}")
        return found

    def faults(self, slower: float) -> list[str]:
        """Why it failed, in words; none where it did not."""
        found = self.broken()
        for call in CALLS:
            alone, beside = self.quiet.p99_ms(call), self.beside.p99_ms(call)
            if beside > slower * alone:
                found.append(f"{call}: p99 {beside:.1f} ms is above {slower:g} times {alone:.1f} ms")
        for name, mib in self.after.items():
            if mib > self.before[name] + BACK_MIB:
                found.append(f"the {name}'s memory: {mib} MiB after the attack, {self.before[name]} before")
        return found

    def report(self) -> str:
        lines = [f"{'':10} {'alone p50':>10} {'p99':>8} {'beside p50':>11} {'p99':>8}  (ms)"]
        for call in (*CALLS, "waited"):
            alone, beside = self.quiet, self.beside
            lines.append(
                f"{call:10} {alone.p50_ms(call):10.1f} {alone.p99_ms(call):8.1f} {beside.p50_ms(call):11.1f} "
                f"{beside.p99_ms(call):8.1f}  x {beside.p99_ms(call) / alone.p99_ms(call):.1f}"
            )
        lines.append(f"jobs: {self.quiet.jobs} alone, {self.beside.jobs} beside")
        lines.append(f"memory (MiB): before {self.before}, most {self.most}, after {self.after}")
        lines += [f"  {name}: {counts}" for name, counts in self.refused.items()]
        return "\n".join(lines)


@contextlib.contextmanager
def attacking(gateway: Running, secret: str, seconds: float, scale: float, names: list[str]) -> Iterator[list[bytes]]:
    """A hostile tenant in a process of its own; what it prints is in the list at the end."""
    command = ["--port", str(gateway.port), "--memcache", str(memcache_port(gateway)), "--seconds", str(seconds)]
    with subprocess.Popen(
        [*tied("tests.hostile.attacks", *command), "--scale", str(scale), "--only", *names],
        stdin=lifeline(),
        stdout=subprocess.PIPE,
        env=os.environ | {"HOSTILE_KEY": secret},
    ) as process:
        printed: list[bytes] = []
        try:
            yield printed
            printed.append(process.communicate(timeout=10)[0])
        except subprocess.TimeoutExpired:  # it gets what the others leave of the processors, which may be little
            printed.append(b"{}")
        finally:
            process.kill()


def memcache_port(gateway: Running) -> int:
    """Where the embedded broker listens; 0 where it does not."""
    flags = list(gateway.flags)
    return int(flags[flags.index("--broker-listen") + 1].rpartition(":")[2]) if "--broker-listen" in flags else 0


def run(
    directory: Path,
    *,
    scopes: str,
    alone_s: float,
    seconds: float,
    scale: float = 1.0,
    names: Sequence[str] = tuple(ATTACKS),
    back_s: float = BACK_S,
) -> Run:
    """A gateway with its defaults; the quiet tenant alone, then with the hostile one, whose key has `scopes`."""
    keys = Keyring(directory / "keys.toml")
    keys.add("quiet", tenant="quiet")
    keys.add("hostile", tenant="hostile", scopes=scopes)
    keys.add("hostile-admin", tenant="hostile", scopes="admin")
    listen = f"127.0.0.1:{free_port()}"
    flags = ("--keys", str(keys.path), "--broker-listen", listen, "--log-level", "warning")
    gateway = Running(directory / "data", *flags)
    memory = Memory(gateway)
    try:
        with going_first():
            quiet = Tenant(gateway.port, keys.secrets["quiet"])
            time.sleep(alone_s)
            alone = quiet.stop()
            before = memory.now()
            with attacking(gateway, keys.secrets["hostile"], seconds + 3, scale, list(names)) as printed:
                time.sleep(3)
                victim = Tenant(gateway.port, keys.secrets["quiet"])
                time.sleep(seconds)
                beside = victim.stop()
        with keys.client(gateway, "hostile-admin") as http:
            http.delete("/queues/hoard")  # and its leases of 12 hours
        ends = time.monotonic() + back_s
        while any(mib > before[name] + BACK_MIB for name, mib in memory.now().items()) and time.monotonic() < ends:
            time.sleep(0.5)
        return Run(alone, beside, json.loads(printed[0]), before, memory.most, memory.now())
    finally:
        memory.stop()
        gateway.kill()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--scopes", default="produce consume", help="of the hostile tenant's key")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--alone", type=float, default=30, help="seconds without the hostile tenant")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of hostile connections")
    parser.add_argument("--slower", type=float, default=SLOWER, help="times the p99 alone")
    parser.add_argument("--only", nargs="*", default=list(ATTACKS), choices=list(ATTACKS), help="these attacks")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(
            Path(directory),
            scopes=asked.scopes,
            alone_s=asked.alone,
            seconds=asked.seconds,
            scale=asked.scale,
            names=asked.only,
        )
    print(f"a hostile tenant with {asked.scopes}, {asked.seconds:g} s")
    print(result.report())
    faults = result.faults(asked.slower)
    print("\n".join(faults) or "the quiet tenant did not notice")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
