"""The steps of docs/migrating.md with both servers for a while, while producers and consumers work.

`python -m tests.migration.test_mixed_members 20000` does it with that many jobs.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.lab.broker import BrokerProcess
from tests.lab.commands import Commands
from tests.lab.examples import examples
from tests.lab.gateway import Running
from tests.lab.http import HttpClient
from tests.lab.waiting import until

QUEUE, CHILDREN = "mail", ("audit", "stats")
PRODUCERS, CONSUMERS = 2, 2
LONG_S = 1800.0


@dataclass
class Seen:
    """What the threads have seen. refused: answers of an enqueue that are no success. repeated: after their ack.

    begun: jobs are enqueued in as many parts, each once its part of the move begins, so that no part is without load.
    """

    enqueued: set[int] = field(default_factory=set)
    refused: Counter[int] = field(default_factory=Counter)
    acked: dict[str, set[int]] = field(default_factory=dict)
    repeated: list[tuple[str, int]] = field(default_factory=list)
    begun: list[threading.Event] = field(default_factory=lambda: [threading.Event() for _ in range(5)])


def produce(gateway: Running, seen: Seen, numbers: range) -> None:
    with contextlib.closing(HttpClient(gateway.port, 30)) as http:
        for number in numbers:
            seen.begun[number * len(seen.begun) // numbers.stop].wait(LONG_S)
            headers = {"Idempotency-Key": f"job-{number}"} | ({"Ordering-Key": f"k{number % 7}"} if number % 2 else {})
            while (answer := http.ask("POST", f"/queues/{QUEUE}/jobs", number, **headers)).status != 201:
                seen.refused[answer.status] += 1
            seen.enqueued.add(number)


def consume(gateway: Running, seen: Seen, name: str, count: int) -> None:
    acked = seen.acked[name]
    with contextlib.closing(HttpClient(gateway.port, 30)) as http:
        while len(acked) < count:
            answer = http.ask("GET", f"/queues/{name}/next?timeout=1")
            if answer.status != 200:
                continue
            job = answer.json()
            if job["data"] in acked:
                seen.repeated.append((name, job["data"]))
            lease = f"/leases/{job['lease']['id']}"
            if job["data"] % 13 == 0 and job["attempt"] == 1:
                http.ask("POST", f"{lease}/nack")
            elif http.ask("POST", f"{lease}/ack").status == 204:
                acked.add(job["data"])


def members(gateway: Running, *servers: BrokerProcess) -> None:
    (gateway.data.parent / "members").write_text("".join(f"{each.address}\n" for each in servers))
    gateway.process.send_signal(signal.SIGHUP)


def shown(http: httpx.Client) -> dict[str, dict[str, Any]]:
    return {each["server"]: each for each in http.get("/backends").json()["backends"]}


def left(http: httpx.Client, server: BrokerProcess) -> tuple[int, int]:
    """The items and open reads on the server, as /backends tells them."""
    found = shown(http)[server.address]
    return found["items"], found["open_reads"]


def move_under_load(folder: Path, jobs: int) -> Seen:
    """Every step while jobs come and go. Returns what the threads have seen."""
    seen = Seen(acked={name: set() for name in (QUEUE, *(f"{QUEUE}+{each}" for each in CHILDREN))})
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(BrokerProcess(folder / "old"))
        new = stack.enter_context(BrokerProcess(folder / "new"))
        (folder / "members").write_text(f"{old.address}\n")
        flags = ("--kestrel-file", str(folder / "members"), "--ordering-keys", "move")
        gateway = Running(folder / "gateway", *flags)
        stack.callback(gateway.kill)
        http = stack.enter_context(gateway.client())
        for child in CHILDREN:
            old.client().get(f"{QUEUE}+{child}/peek")  # as memcache clients make them
        old.client().put(f"{QUEUE}__dead", b"an old dead letter")
        old.client().put("a%b", b"on a queue that HTTP does not show")
        threads = [
            threading.Thread(target=produce, args=(gateway, seen, range(each, jobs, PRODUCERS)), daemon=True)
            for each in range(PRODUCERS)
        ]
        threads += [
            threading.Thread(target=consume, args=(gateway, seen, name, jobs), daemon=True)
            for name in seen.acked
            for _ in range(CONSUMERS)
        ]
        for each in threads:
            each.start()
        seen.begun[0].set()
        until(lambda: len(seen.enqueued) > jobs // 10, within_s=LONG_S)
        seen.begun[1].set()
        members(gateway, old, new)
        until(lambda: set(shown(http)) == {old.address, new.address})
        seen.begun[2].set()
        until(lambda: new.stat(f"queue_{QUEUE}_total_items") > 0)
        assert all(new.stat(f"queue_{QUEUE}+{each}_total_items") > 0 for each in CHILDREN)
        seen.begun[3].set()
        assert http.put(f"/backends/{old.address}/status", json={"status": "readonly"}).status_code == 200
        # What no consumer reads stays: the dead letter, and the queue of another program.
        until(lambda: left(http, old) == (2, 0), within_s=LONG_S)
        seen.begun[4].set()
        members(gateway, new)
        until(lambda: set(shown(http)) == {new.address})
        done = Commands(gateway.url)("forward", "--from", old.address, "--to", new.address)
        assert done.returncode == 0, done.stderr
        assert sum(each["items"] for each in old.client().queues().values()) == 0
        for each in threads:
            each.join(LONG_S)
            assert not each.is_alive()
        assert list(new.client().take_all("a%b")) == [b"on a queue that HTTP does not show"]
        assert list(new.client().take_all(f"{QUEUE}__dead")) == [b"an old dead letter"]
        until(lambda: left(http, new) == (0, 0))
    return seen


def check(seen: Seen, jobs: int) -> None:
    everything = set(range(jobs))
    assert seen.enqueued == everything
    assert {name: everything - acked for name, acked in seen.acked.items()} == {name: set() for name in seen.acked}
    assert seen.repeated == []


def test_a_move_under_load(tmp_path: Path) -> None:
    """No job is lost, on the queue and for each child, and none is delivered again after its ack."""
    jobs = examples(150, fewest=60)
    check(move_under_load(tmp_path, jobs), jobs)


if __name__ == "__main__":
    count = int(sys.argv[1])
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        result = move_under_load(Path(place), count)
    check(result, count)
    took_s = time.monotonic() - began_s
    print(f"{count} jobs, {len(CHILDREN)} children each: {took_s:.0f} s; refused: {dict(result.refused)}")
