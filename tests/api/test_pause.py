"""Paused queues over HTTP: nothing is handed out from them, by any worker of any replica, and everything else works."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

import httpx
import pytest

from gateway.delivery.control.state import ControlEntry, ControlItem, ControlState
from gateway.delivery.pause import MAX_PAUSED
from gateway.envelope.times import instant
from tests.cluster.rig import before, brokers
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running
from tests.lab.processes import children_of
from tests.lab.waiting import until

LEASE_S = 60.0
"""The default length of a lease."""
KNOWN_S = 2.0
"""A pause holds everywhere this long after its answer."""


def put(http: httpx.Client, queue: str, job: str = "job") -> None:
    assert http.post(f"/queues/{queue}/jobs", json=job).status_code == 201


def pause(http: httpx.Client, queue: str, **body: str) -> dict:
    answer = http.put(f"/queues/{queue}/pause", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def resume(http: httpx.Client, queue: str) -> dict:
    answer = http.delete(f"/queues/{queue}/pause")
    assert answer.status_code == 200, answer.text
    return answer.json()


def take(http: httpx.Client, queue: str, timeout: float = 0) -> httpx.Response:
    return http.get(f"/queues/{queue}/next", params={"timeout": timeout})


def wait_until_delivered(http: httpx.Client, queue: str) -> None:
    """Returns when a job of another queue, which is put now, has been delivered."""
    put(http, f"{queue}-other")
    assert take(http, f"{queue}-other", 30).status_code == 200


def listed(http: httpx.Client, queue: str) -> list[dict]:
    """The queue as the list of queues shows it."""
    return http.get("/queues", params={"filter": f"name={queue}"}).json()["queues"]


def in_(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_nothing_is_handed_out_and_the_rest_works(http: httpx.Client, queue: str) -> None:
    """`next` is 204 with Queue-Paused; jobs are accepted, leases settled, the queue inspected; then jobs come again."""
    put(http, queue, "first")
    lease = take(http, queue).headers["lease-id"]
    assert "pause" not in http.get(f"/queues/{queue}").json()
    shown = pause(http, queue, reason="because")
    assert shown.pop("since").startswith("20")
    assert shown == {"queue": queue, "paused": True, "by_policy": False, "reason": "because"}

    put(http, queue, "second")
    answer = take(http, queue)
    assert (answer.status_code, answer.headers["queue-paused"]) == (204, "true")
    answer = http.post(f"/queues/{queue}/leases", json={"timeout": 0})
    assert (answer.json(), answer.headers["queue-paused"]) == ({"jobs": []}, "true")
    assert http.get(f"/queues/{queue}/peek").json()["data"] == "second"
    assert http.post(f"/leases/{lease}/extend", json={"lease_seconds": 50}).status_code == 200
    assert http.post(f"/leases/{lease}/ack").status_code == 204
    pauses = [each["pause"]["reason"] for each in (http.get(f"/queues/{queue}").json(), *listed(http, queue))]
    assert pauses == ["because"] * 2

    assert resume(http, queue) == {"queue": queue, "paused": False, "by_policy": False}
    assert resume(http, queue)["paused"] is False
    answer = take(http, queue)
    assert (answer.status_code, answer.json()["data"]) == (200, "second")
    assert "queue-paused" not in take(http, queue).headers


def test_a_waiting_poll_waits_on_through_a_pause(gateway: Running, http: httpx.Client, queue: str) -> None:
    """A poll that waits when its queue is paused gets nothing then, keeps no get on Kestrel, and the job at the end."""
    put(http, queue)
    assert take(http, queue).status_code == 200
    with ThreadPoolExecutor() as pool, gateway.client() as other:
        waiting = pool.submit(take, other, queue, 45)  # the longest that is allowed
        until(lambda: http.get(f"/queues/{queue}?missing=zero").json()["waiters"])
        pause(http, queue)
        until(lambda: not http.get(f"/queues/{queue}?missing=zero").json()["waiters"])
        put(http, queue, "later")
        wait_until_delivered(http, queue)
        assert http.get(f"/queues/{queue}").json()["items"] == 1
        assert not waiting.done()
        resume(http, queue)
        assert waiting.result(60).json()["data"] == "later"


def test_a_pause_ends_by_itself(http: httpx.Client, queue: str) -> None:
    """At `until` a poll that waits gets the job, and another PUT replaces `until`."""
    put(http, queue)
    pause(http, queue, until=in_(3600))
    began_s = time.monotonic()
    shown = pause(http, queue, until=in_(1))
    assert shown["until"] > shown["since"]
    answer = take(http, queue, 10)
    assert answer.status_code == 200
    assert time.monotonic() - began_s > 0.5
    assert "pause" not in http.get(f"/queues/{queue}").json()


def test_the_wait_is_waited_out(http: httpx.Client, queue: str) -> None:
    """A poll of a paused queue ends at its own time."""
    put(http, queue)
    pause(http, queue)
    began_s = time.monotonic()
    assert take(http, queue, 0.5).headers["queue-paused"] == "true"
    assert 0.45 < time.monotonic() - began_s < 20


def test_a_deleted_queue_is_not_paused(http: httpx.Client, queue: str) -> None:
    """The pause goes with its queue."""
    put(http, queue)
    pause(http, queue)
    assert http.delete(f"/queues/{queue}").status_code == 200
    put(http, queue)
    assert take(http, queue).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"until": "tomorrow"}, "until"),
        ({"until": "2020-01-31T12:00:00Z"}, "not in the future"),
        ({"until": "9999-12-31T23:59:59-23:00"}, "until"),
        ({"until": 5}, "until"),
        ({"reason": "x" * 201}, "reason"),
        ({"reason": 5}, "reason"),
        ({"for": 5}, "for"),
        ([], "object"),
    ],
)
def test_bad_input_pauses_nothing(http: httpx.Client, queue: str, body: object, says: str) -> None:
    """It is a 400 that says what is wrong, and the queue is not paused."""
    put(http, queue)
    answer = http.put(f"/queues/{queue}/pause", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert says in answer.json()["detail"]
    assert take(http, queue).status_code == 200


def test_an_unknown_queue_cannot_be_paused(http: httpx.Client, queue: str) -> None:
    """It is a 404 and is not created; a wrong name is a 400; a missing body is fine."""
    assert http.put(f"/queues/{queue}/pause").status_code == 404
    assert http.get(f"/queues/{queue}").status_code == 404
    assert http.put("/queues/a__b/pause").status_code == 400
    assert http.delete(f"/queues/{queue}/pause").json()["paused"] is False
    put(http, queue)
    assert http.put(f"/queues/{queue}/pause").json()["paused"] is True


RAW = '[queues.raw]\nformat = "raw"\nmax_in_flight = 1\n'


@pytest.fixture(scope="module")
def with_policies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with the file `queues.toml` beside its data: the queue `raw` has a policy."""
    policies = tmp_path_factory.mktemp("policies") / "queues.toml"
    policies.write_text(RAW)
    with running(policies.with_name("data"), "--queues", str(policies)) as gateway:
        yield gateway


def test_a_policy_pauses_a_queue_also_for_polls_that_wait(with_policies: Running) -> None:
    """SIGHUP with `paused = true` ends the delivery to polls that wait, and SIGHUP without it begins it again."""
    gateway, policies = with_policies, with_policies.data.with_name("queues.toml")
    with gateway.client() as http:
        put(http, "q")
        assert take(http, "q").status_code == 200
        with ThreadPoolExecutor() as pool, gateway.client() as other:
            waiting = pool.submit(take, other, "q", 20)
            policies.write_text(RAW + "[queues.q]\npaused = true\n")
            gateway.process.send_signal(signal.SIGHUP)
            until(lambda: take(http, "q").headers.get("queue-paused") == "true")
            put(http, "q", "later")
            assert resume(http, "q") == {"queue": "q", "paused": True, "by_policy": True}
            assert http.get("/queues/q").json()["pause"]["by_policy"] is True
            wait_until_delivered(http, "q")
            assert http.get("/queues/q").json()["items"] == 1
            assert not waiting.done()
            policies.write_text(RAW)
            gateway.process.send_signal(signal.SIGHUP)
            assert waiting.result(10).json()["data"] == "later"


class Load:
    """Producers and consumers on two queues, through every replica. delivered: when each lease was opened, by queue, on
    the monotonic clock: a consumer on a busy machine may read of it later. held: when each poll ended because its queue
    is paused."""

    def __init__(self, replicas: list[Running], queues: tuple[str, ...]) -> None:
        self.delivered: dict[str, list[float]] = {queue: [] for queue in queues}
        self.held: dict[str, list[float]] = {queue: [] for queue in queues}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, args=(replica, queue))
            for replica in replicas
            for queue in queues
            for work in (self._produce, self._consume, self._consume)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _produce(self, replica: Running, queue: str) -> None:
        with replica.client() as http:
            while not self._over.wait(0.02):
                with contextlib.suppress(httpx.TransportError):
                    http.post(f"/queues/{queue}/jobs", json="job")

    def _consume(self, replica: Running, queue: str) -> None:
        with replica.client() as http:
            while not self._over.is_set():
                try:
                    answer = take(http, queue, 0.5)
                    if answer.status_code == 200:
                        lease = answer.json()["lease"]
                        opened_s = instant(lease["expires_at"]) - LEASE_S - time.time() + time.monotonic()
                        self.delivered[queue].append(opened_s)
                        http.post(lease["url"] + "/ack")
                    elif "queue-paused" in answer.headers:
                        self.held[queue].append(time.monotonic())
                except httpx.TransportError:
                    time.sleep(0.05)


@contextlib.contextmanager
def two_replicas(directory: Path) -> Iterator[list[Running]]:
    """Two gateways with two workers each, on one broker."""
    with BrokerProcess(directory / "broker", "--fsync", "off") as broker:
        flags = ("--workers", "2", "--kestrel", broker.address)
        with running(directory / "a", *flags) as one, running(directory / "b", *flags) as two:
            yield [one, two]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Shared by tests that leave them alive; each uses queues of its own."""
    with two_replicas(tmp_path_factory.mktemp("replicas")) as shared:
        yield shared


def test_a_second_request_changes_a_pause_and_not_its_beginning(replicas: list[Running], queue: str) -> None:
    """Whichever worker of whichever replica gets it knows of the first one."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(each.client()) for each in replicas for _ in range(3)]
        put(clients[0], queue)
        for _ in range(3):
            shown = [pause(http, queue, reason=str(number)) for number, http in enumerate(clients)]
            assert [each["reason"] for each in shown] == ["0", "1", "2", "3", "4", "5"]
            assert len({each["since"] for each in shown}) == 1
            resume(clients[-1], queue)


def test_a_new_queue_or_subscription_of_the_same_name_is_not_paused(replicas: list[Running]) -> None:
    """The pause ends with the old one, also if another replica has begun it a moment before the deletion."""
    with replicas[0].client() as one, replicas[1].client() as two:
        for queue, name, path in (
            ("a", "a", "a"),
            ("b", "b+audit", "b+audit"),
            ("c", "c+audit", "c/subscriptions/audit"),
        ):
            assert one.put(f"/queues/{queue}/subscriptions/audit").status_code == 201
            put(one, queue)
            pause(two, name)
            assert one.delete(f"/queues/{path}").status_code == 200
            one.put(f"/queues/{queue}/subscriptions/audit")
            put(one, queue, "new")
            until(partial(lambda shown: "pause" not in two.get(shown).json(), f"/queues/{name}"))
            assert take(one, name, 10).json()["data"] == "new"


def test_a_request_of_a_frozen_worker_may_end_a_later_pause(replicas: list[Running], queue: str) -> None:
    """Its client has gone, and it is carried out after the thaw: `since` then says that the pause is another one. The
    operators of make chaos rely on that."""
    frozen, other = replicas
    workers = [pid for pid, line in children_of(frozen.process.pid).items() if "worker" in line]
    with other.client() as http:
        put(http, queue)
        pause(http, queue)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            with socket.create_connection(("127.0.0.1", frozen.port), 10) as connection:
                connection.sendall(f"DELETE /queues/{queue}/pause HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            resume(http, queue)
            since = pause(http, queue)["since"]
            assert pause(http, queue)["since"] == since
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        until(lambda: "pause" not in http.get(f"/queues/{queue}").json())
        assert pause(http, queue)["since"] != since


def test_without_a_server_the_end_of_a_pause_is_an_error(tmp_path: Path) -> None:
    """It is not known whether the queue is paused. With one of two servers the coverage says so."""
    with brokers(tmp_path, 2) as servers, before(tmp_path, servers) as gateway, gateway.client() as http:

        def end_with(count: int) -> httpx.Response:
            """The answer when so many servers are left."""
            until(lambda: [s["status"] for s in http.get("/backends").json()["backends"]].count("up") == count)
            return http.delete("/queues/q/pause")

        answer = end_with(2)
        assert (answer.status_code, "queue-coverage" in answer.headers) == (200, False)
        servers[1].kill()
        answer = end_with(1)
        assert (answer.status_code, answer.headers["queue-coverage"]) == (200, "1/2")
        servers[0].kill()
        answer = end_with(0)
        assert (answer.status_code, answer.json()["code"]) == (503, "backend-unavailable")


@pytest.mark.slow
def test_no_worker_of_any_replica_delivers_under_load(tmp_path: Path) -> None:
    """Two operators pause two queues at once at two replicas; both hold everywhere, also after all was killed."""
    queues = ("a", "b")
    with contextlib.ExitStack() as stack:
        replicas = stack.enter_context(two_replicas(tmp_path))
        http, other = (stack.enter_context(each.client()) for each in replicas)
        pool = stack.enter_context(ThreadPoolExecutor())
        load = stack.enter_context(Load(replicas, queues))
        until(lambda: all(len(times) > 20 for times in load.delivered.values()))
        for done in [pool.submit(pause, http, "a"), pool.submit(pause, other, "b")]:
            done.result()
        paused_s = time.monotonic()
        time.sleep(KNOWN_S)
        until(lambda: not any(http.get(f"/queues/{queue}?missing=zero").json()["waiters"] for queue in queues))
        for replica in replicas:
            replica.kill()
        for replica in replicas:
            replica.start()
        with replicas[0].client() as again:
            started_s = time.monotonic()
            until(lambda: all(sum(at > started_s for at in times) > 8 for times in load.held.values()))
            for queue in queues:
                late = [at - paused_s for at in load.delivered[queue] if at > paused_s + KNOWN_S]
                assert not late, f"{queue} was delivered {late} s after it was paused"
                assert again.get(f"/queues/{queue}").json()["pause"]["paused"] is True
            counts = {queue: len(times) for queue, times in load.delivered.items()}
            resume(again, "a")
            until(lambda: len(load.delivered["a"]) > counts["a"] + 20)
            assert len(load.delivered["b"]) == counts["b"]
            resume(again, "b")
            until(lambda: len(load.delivered["b"]) > counts["b"] + 20)


def test_a_subscription_is_paused_by_its_own_name(http: httpx.Client, queue: str) -> None:
    """A pause of the parent does not pause a child, and the other way round."""
    assert http.put(f"/queues/{queue}/subscriptions/audit").status_code < 300
    put(http, queue)
    pause(http, f"{queue}+audit")
    subscription = http.get(f"/queues/{queue}/subscriptions/audit").json()
    (shown,) = http.get(f"/queues/{queue}/subscriptions").json()["subscriptions"]
    assert shown["pause"] == subscription["pause"]
    assert subscription["pause"]["paused"]
    assert [each["queue"] for each in listed(http, queue) if "pause" in each] == []
    assert take(http, f"{queue}+audit").headers["queue-paused"] == "true"
    assert take(http, queue).status_code == 200
    resume(http, f"{queue}+audit")
    pause(http, queue)
    assert take(http, f"{queue}+audit").status_code == 200


def test_a_raw_queue_and_its_dead_letters(with_policies: Running) -> None:
    """Raw items stay in order through a pause; a rejected one is moved, listed and moved back while it lasts."""
    with with_policies.client() as http:
        for body in (b"1", b"2", b"3"):
            assert http.post("/queues/raw/jobs", content=body).status_code == 201
        first = take(http, "raw")
        assert take(http, "raw").headers["queue-limited"] == "max_in_flight"
        pause(http, "raw")
        assert http.post(first.json()["lease"]["url"] + "/reject", json={}).status_code < 300
        assert http.get("/queues/raw/dead-letters").json()["items"] == 1
        assert http.post("/queues/raw/redrive", json={}).json()["redriven"] == 1
        assert take(http, "raw").headers["queue-paused"] == "true"
        resume(http, "raw")
        got = []
        for _ in range(3):
            answer = http.get("/queues/raw/next?format=raw&timeout=5")
            got.append(answer.content)
            assert http.post(f"/leases/{answer.headers['lease-id']}/ack").status_code == 204
        assert got == [b"2", b"3", b"1"]


@pytest.mark.slow
def test_a_worker_that_was_stopped_looks_before_it_delivers(tmp_path: Path) -> None:
    """A worker is frozen with a poll; its queue is paused elsewhere; thawed, it puts back what Kestrel gave it."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(BrokerProcess(tmp_path / "broker", "--fsync", "off"))
        one, two = (
            stack.enter_context(running(tmp_path / name, "--kestrel", broker.address)) for name in ("one", "two")
        )
        here, there = stack.enter_context(one.client()), stack.enter_context(two.client())
        pool = stack.enter_context(ThreadPoolExecutor())
        for _ in range(2):
            put(there, "q")
            assert take(there, "q").status_code == 200
            waiting = pool.submit(take, here, "q", 5)
            until(lambda: broker.waiters("q") > 0)
            (frozen,) = [pid for pid, line in children_of(one.process.pid).items() if "gateway.process.worker" in line]
            os.kill(frozen, signal.SIGSTOP)
            try:
                pause(there, "q")
                put(there, "q", "late")
                until(lambda: there.get("/queues/q").json()["open_reads"] == 2)
                time.sleep(KNOWN_S)
            finally:
                os.kill(frozen, signal.SIGCONT)
            assert waiting.result(20).headers.get("queue-paused") == "true"
            there.delete("/queues/q")


def test_the_number_of_paused_queues_is_limited(tmp_path: Path) -> None:
    """One more is refused until a pause ends; a queue that is paused already can be paused again."""
    entries = [
        (("pause", f"q{number}"), ControlEntry(1, {"since": 1.0, "until": None, "reason": ""}))
        for number in range(MAX_PAUSED)
    ]
    with BrokerProcess(tmp_path / "broker", "--fsync", "off") as broker:
        item = ControlItem("a", ControlState(entries)).pack()
        with contextlib.closing(broker.client()) as client:
            assert client.ask(b"set _kestrel-gateway__control 0 0 %d\r\n%s\r\n" % (len(item), item)) == b"STORED\r\n"
        with running(tmp_path / "data", "--kestrel", broker.address) as gateway, gateway.client() as http:
            for queue in ("q0", "more"):
                put(http, queue)
            answer = http.put("/queues/more/pause")
            assert (answer.status_code, answer.json()["code"]) == (403, "too-many-queues")
            pause(http, "q0", reason="again")
            resume(http, "q0")
            pause(http, "more")


@pytest.mark.slow
def test_a_worker_that_lost_its_servers_looks_before_it_delivers(tmp_path: Path) -> None:
    """It gives its servers up, since they do not answer, and has items that they sent before. No way of delivery hands
    one of them out, and none of them counts as an attempt."""
    paths = {
        "a": "/queues/a/next?timeout=15&ack=auto",
        "b": "/queues/b/next?timeout=15",
        "c": "/queues/c/next?timeout=15&max=3",
        "d": "/next?queue=d&timeout=15",
        "e": "/queues/e/stream?window=20&lifetime=15",
    }
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(brokers(tmp_path, 2))
        flags = [flag for server in servers for flag in ("--kestrel", server.address)]
        one, two = (
            stack.enter_context(running(tmp_path / name, *flags, "--kestrel-command-timeout", "0.5"))
            for name in ("one", "two")
        )
        there = stack.enter_context(two.client())
        for queue in paths:
            put(there, queue)
            assert take(there, queue, 1).status_code == 200
        pool = stack.enter_context(ThreadPoolExecutor(3 * len(paths)))

        def paused_with_jobs(queue: str) -> None:
            """The frozen worker's gets, which end with its polls, have taken some of them."""
            pause(there, queue)
            for _ in range(4):
                put(there, queue, "late")
            until(lambda: there.get(f"/queues/{queue}").json()["open_reads"] > 1)

        polls = [(path, pool.submit(httpx.get, one.url + path, timeout=60)) for path in list(paths.values()) * 2]
        until(lambda: all(any(server.waiters(queue) for server in servers) for queue in paths))
        (frozen,) = [pid for pid, line in children_of(one.process.pid).items() if "gateway.process.worker" in line]
        os.kill(frozen, signal.SIGSTOP)
        try:
            for each in [pool.submit(paused_with_jobs, queue) for queue in paths]:
                each.result(60)
            time.sleep(KNOWN_S)
            for server in servers:  # else it depends on chance whether a question of the worker comes too late
                server.freeze()
        finally:
            os.kill(frozen, signal.SIGCONT)
        try:
            until(lambda: one.log.read_text().count("did not answer in time") == len(servers))
        finally:
            for server in servers:
                server.thaw()
        for path, poll in polls:
            answer = poll.result(60)
            assert (answer.status_code, "late" in answer.text) == (200 if "/stream" in path else 204, False), path
        for queue in paths:
            resume(there, queue)
            for _ in range(4):
                job = take(there, queue, 10).json()
                assert (job["data"], job["attempt"]) == ("late", 1)
