"""Clients that close at awkward moments, in three programs' ways: Python's, Node's and curl's. No job may be stranded.

A job is stranded if it cannot be taken after the lease that its disconnected client may hold has ended.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chaos.closer import AT_ONCE, LEASE_S, Closer
from chaos.processes import ENVIRONMENT, ProcessError, Processes
from tests.lab.commands import run_process
from tests.lab.http import HttpClient

HERE = Path(__file__).parent
LIMIT_S = 600.0
MARGIN_S = 2.0
"""Beyond the lease's end, for a busy machine."""


@dataclass(frozen=True, slots=True)
class Closing:
    """What became of a program's jobs. read: answers read whole. at_once, by_lease_end: unsettled jobs, by when they
    could be taken again. stranded: could not. again: acked, and yet taken again."""

    stored: int
    read: int
    acked: int
    at_once: int
    by_lease_end: int
    stranded: int
    again: int


def of_python(processes: Processes, rounds: int, seed: int) -> Closing:
    """httpx, urllib and http.client."""
    return _run(processes, "python", [sys.executable, "-P", "-m", "chaos.closer"], rounds, seed)


def of_node(processes: Processes, rounds: int, seed: int) -> Closing:
    """fetch and http.request."""
    return _run(processes, "node", ["node", str(HERE / "closer.mjs")], rounds, seed)


def of_curl(processes: Processes, rounds: int, seed: int) -> Closing:
    """curl with --max-time, a process a poll."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begins_s = max(pool.map(_begins_s, [processes.ports[0]] * AT_ONCE))
        closer = Closer(processes.ports[0], "curl", begins_s)
        for each in [pool.submit(closer.round, number, seed, _curl) for number in range(rounds)]:
            each.result()
    return _judged(processes.ports[0], "curl", closer.stored, closer.acked, closer.read)


PROGRAMS: dict[str, Callable[[Processes, int, int], Closing]] = {"python": of_python, "node": of_node, "curl": of_curl}


def present(program: str) -> bool:
    """Whether this machine has the program."""
    return program == "python" or shutil.which(program) is not None


def _curl(closer: Closer, limit_s: float) -> str | None:
    command = ["curl", "--silent", "--fail", "--max-time", f"{limit_s + 0.01:.3f}", closer.base + closer.path]
    ended = subprocess.run(command, capture_output=True, check=False)
    return ended.stdout.decode() if ended.returncode == 0 else None


def _begins_s(port: int) -> float:
    """How long curl takes here for a request that is answered at once. On a busy machine it is most of a round."""
    began_s = time.monotonic()
    subprocess.run(["curl", "--silent", f"http://127.0.0.1:{port}/livez"], capture_output=True, check=False)
    return time.monotonic() - began_s


def _run(processes: Processes, queue: str, command: list[str], rounds: int, seed: int) -> Closing:
    arguments = [str(processes.ports[0]), queue, str(rounds), str(seed)]
    ended = run_process([*command, *arguments], LIMIT_S, env=ENVIRONMENT)
    if ended.returncode:
        raise ProcessError(ended.stderr)
    told = json.loads(ended.stdout)
    return _judged(processes.ports[0], queue, told["stored"], told["acked"], told["read"])


def _judged(port: int, queue: str, stored: list[str], acked: list[str], read: int) -> Closing:
    """Takes what is on the queue until everything is accounted for, or nothing comes after all leases have ended."""
    missing = set(stored) - set(acked)
    http = HttpClient(port, 30.0)
    began_s = time.monotonic()
    came_s: list[float] = []
    again = 0
    while missing:
        over = time.monotonic() > began_s + LEASE_S + MARGIN_S
        answer = http.ask("GET", f"/queues/{queue}/next?timeout=0.2&lease=60")
        if answer.status != 200:
            if over:  # it was asked after all leases had ended
                break
            continue
        job = answer.json()["id"]
        http.ask("POST", f"/leases/{answer.headers['lease-id']}/ack")
        if job in missing:
            missing.remove(job)
            came_s.append(time.monotonic() - began_s)
        elif job in acked:
            again += 1
    http.close()
    at_once = sum(each < LEASE_S / 2 for each in came_s)
    return Closing(len(stored), read, len(acked), at_once, len(came_s) - at_once, len(missing), again)
