"""How soon a dead consumer's job reaches the next one, and a dead gateway's the next gateway. Measures, judges nothing.

Consumers are forked and killed with -9: the kernel closes their sockets, as it does for any process that dies.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from chaos.processes import Processes
from tests.lab.http import HttpClient

QUEUE = "/queues/orphans"
LEASE_S = 1.0
WAIT_S = 4
"""A poll waits for a lease's length and this."""
ANSWER_S = 20.0
ON_ITS_WAY_S = 0.004
"""A kill falls so long after the enqueue was sent, at most."""
LATE = 0.5
"""A job that comes back after this part of the lease was given back by the lease's end: its consumer's kernel had it
already."""


class Moment(Enum):
    """When a consumer dies."""

    PARKED = "parked, then a job comes"
    ON_ITS_WAY = "while the answer is on its way"


@dataclass(frozen=True, slots=True)
class Redelivery:
    """took_ms: from the consumer's death, or the job's 201 where that came later, to the next consumer's answer.

    at_lease_end: how many answers the dead consumer's kernel had taken already, so that the job came back with the
    lease's end. lost: how many did not come back at all.
    """

    took_ms: list[float]
    at_lease_end: int = 0
    lost: int = 0


def of_consumers(port: int, moment: Moment, rounds: int, chance: random.Random, lease_s: float = LEASE_S) -> Redelivery:
    """Kills a consumer a round while another one is parked behind it, all at one gateway of one worker."""
    producer = HttpClient(port, ANSWER_S)
    took_ms: list[float] = []
    at_lease_end = lost = 0
    for number in range(rounds):
        with _victim(port, lease_s) as victim, _parked(port, lease_s) as survivor:
            if moment is Moment.PARKED:
                died_s = _kill(victim)
                producer.send("POST", QUEUE + "/jobs", {"number": number})
            else:
                producer.send("POST", QUEUE + "/jobs", {"number": number})
                _spin(chance.uniform(0.0, ON_ITS_WAY_S))
                died_s = _kill(victim)
            producer.answer()
            stored_s = time.monotonic()
            reached_s = _reached(survivor)
            if reached_s is None:
                lost += 1
            elif reached_s - died_s > LATE * lease_s:
                at_lease_end += 1
            else:
                took_ms.append(max(0.0, reached_s - max(died_s, stored_s)) * 1000)
    producer.close()
    return Redelivery(took_ms, at_lease_end, lost)


def of_gateways(processes: Processes, rounds: int) -> Redelivery:
    """Kills the replica that leased, and all its workers, while a consumer is parked at the other one."""
    took_ms: list[float] = []
    lost = 0
    for number in range(rounds):
        victim, other = number % 2, 1 - number % 2
        if number:
            processes.replicas[other].start()
            processes.until_ready()
        holder = HttpClient(processes.ports[victim], ANSWER_S)
        holder.ask("POST", QUEUE + "/jobs", {"number": number})
        taken = holder.ask("GET", f"{QUEUE}/next?timeout=5&lease=60")
        holder.close()
        with _parked(processes.ports[other]) as survivor:
            began_s = time.monotonic()
            processes.replicas[victim].kill()
            reached_s = _reached(survivor) if taken.status == 200 else None
            if reached_s is None:
                lost += 1
            else:
                took_ms.append((reached_s - began_s) * 1000)
    return Redelivery(took_ms, lost=lost)


@contextmanager
def _parked(port: int, lease_s: float = LEASE_S) -> Iterator[HttpClient]:
    """A connection whose poll the gateway has read: it answers in order what it reads."""
    poll, control = HttpClient(port, ANSWER_S), HttpClient(port, ANSWER_S)
    control.ask("GET", "/livez")
    poll.send("GET", f"{QUEUE}/next?timeout={WAIT_S + lease_s}&lease={lease_s}")
    control.ask("GET", "/livez")
    control.close()
    try:
        yield poll
    finally:
        poll.close()


@contextmanager
def _victim(port: int, lease_s: float) -> Iterator[int]:
    """The pid of a process that alone holds the connection of a parked poll, and reads nothing."""
    with _parked(port, lease_s):
        child = os.fork()
        if not child:
            try:
                while True:
                    signal.pause()
            finally:
                os._exit(1)
    try:
        yield child
    finally:
        _kill(child)


def _kill(pid: int) -> float:
    """The instant at which the process is gone and its socket closed; a second time it does nothing."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return time.monotonic()


def _reached(poll: HttpClient) -> float | None:
    """When the poll's job was there, which is then acked; None where none came."""
    answer = poll.answer()
    reached_s = time.monotonic()
    if answer.status != 200:
        return None
    acked = poll.ask("POST", f"/leases/{answer.headers['lease-id']}/ack")
    return reached_s if acked.status == 204 else None


def _spin(seconds: float) -> None:
    """Waits, exact to microseconds."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass
