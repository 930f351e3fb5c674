"""Subscriptions on several servers: members that are away, join, return empty, or were away while one was deleted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.cluster.rig import before, brokers
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples, in_ci
from tests.lab.gateway import Running
from tests.lab.processes import children_of
from tests.lab.waiting import until


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, list[BrokerProcess]]]:
    """A gateway before three servers, of which the third is no member until a test needs it."""
    directory = tmp_path_factory.mktemp("members")
    # Without rounds of figures, only looks at the control state peek.
    flags = ("--workers", "2", "--queue-figures-interval", "3600")
    with brokers(directory, 3) as many, before(directory, many[:2], *flags) as gateway:
        yield gateway, many


@pytest.fixture
def cluster(servers) -> Iterator[tuple[Running, httpx.Client, list[BrokerProcess]]]:
    """As it is before each test: two members, which are up."""
    gateway, many = servers
    with gateway.client() as http:
        join(gateway, many[:2])
        until(lambda: up(http) == 2)
        yield gateway, http, many


def up(http: httpx.Client) -> int:
    return sum((each["status"], each["leaving"]) == ("up", False) for each in http.get("/backends").json()["backends"])


def children(broker: BrokerProcess, queue: str) -> set[str]:
    """The fanout children of the queue on the server."""
    with contextlib.closing(broker.client()) as client:
        client.send(b"dump_stats\r\n")
        lines = client.read_until(b"END\r\n").decode().splitlines()
    return {line[7:-3] for line in lines if line.startswith("queue '") and line[7:].startswith(f"{queue}+")}


def copies(brokers: list[BrokerProcess], queue: str) -> list[tuple[int, int]]:
    """How many items each server has on the queue and on its child."""
    return [(each.stat(f"queue_{queue}_items"), each.stat(f"queue_{queue}+audit_items")) for each in brokers]


def wait_for_looks(*members: BrokerProcess) -> None:
    """Returns when both workers have looked at the control state of these servers: each look is a peek, and each worker
    looks as often as the other."""
    wanted = {each: each.stat("cmd_peek") + 4 for each in members}
    until(lambda: all(each.stat("cmd_peek") >= count for each, count in wanted.items()))


def subscribe(http: httpx.Client, queue: str) -> None:
    """Returns when every member has the subscription. On a busy machine a worker may not be connected to one of them
    yet, which another worker, whose answer `up` has counted, is. Then the answer is 503, to be repeated."""
    until(lambda: http.put(f"/queues/{queue}/subscriptions/audit").status_code < 300)


def publish(http: httpx.Client, queue: str, count: int) -> None:
    for number in range(count):
        assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201


def publish_on(http: httpx.Client, queue: str, broker: BrokerProcess) -> int:
    """Publishes until the server has one job more, and returns how many: puts go elsewhere while it is prepared."""
    before, published = copies([broker], queue)[0][0], 0

    def another() -> bool:
        nonlocal published
        published += 1
        publish(http, queue, 1)
        return copies([broker], queue)[0][0] > before

    until(another)
    return published


def join(gateway: Running, many: list[BrokerProcess]) -> None:
    (gateway.data.parent / "members").write_text("".join(f"{each.address}\n" for each in many))
    gateway.process.send_signal(signal.SIGHUP)


def test_a_subscription_is_complete_when_every_member_has_it(cluster, queue):
    """503 with the coverage while a member is away; after its return the same request succeeds."""
    _, http, (one, two, _) = cluster
    two.kill()
    until(lambda: up(http) == 1)
    answer = http.put(f"/queues/{queue}/subscriptions/audit")
    assert (answer.status_code, answer.headers["queue-coverage"]) == (503, "1/2")
    assert "repeat the request" in answer.json()["detail"]
    assert http.get(f"/queues/{queue}+audit/next?timeout=0").status_code == 204
    unknown = http.get(f"/queues/{queue}+typo/next?timeout=0")
    assert (unknown.status_code, unknown.json()["code"]) == (503, "backend-unavailable"), "the other server may have it"
    assert unknown.headers["queue-coverage"] == "1/2"
    assert children(one, queue) == {f"{queue}+audit"}
    two.start()
    subscribe(http, queue)
    assert children(two, queue) == {f"{queue}+audit"}


def test_a_gateway_that_starts_while_the_only_server_with_a_subscription_is_away(cluster, queue):
    """It does not say that there is none, and creates none: neither by reads nor by the other server's puts."""
    gateway, http, (one, two, _) = cluster
    with contextlib.closing(two.client()) as client:
        client.get(f"{queue}+audit/peek")
    assert children(two, queue) == {f"{queue}+audit"}
    two.kill()
    gateway.kill()
    gateway.start()
    name = f"{queue}+audit"
    paths = [f"/queues/{name}", f"/queues/{name}/peek", f"/queues/{queue}/subscriptions/audit"]
    paths += [f"/queues/{name}/next?timeout=0", f"/next?queue={queue}%2Baudit&timeout=0"]
    answers = [http.get(path) for path in paths]
    answers += [http.delete(f"/queues/{name}"), http.post(f"/queues/{name}/flush")]
    answers += [http.post(f"/queues/{name}/leases", json={"timeout": 0})]
    found = {(each.status_code, each.json()["code"], each.headers.get("queue-coverage")) for each in answers}
    assert found == {(503, "backend-unavailable", "1/2")}
    assert children(one, queue) == set()
    two.start()
    until(lambda: up(http) == 2)
    until(lambda: http.get(f"/queues/{name}").status_code == 200)
    publish(http, queue, 12)
    assert all(items == copied for items, copied in copies([one, two], queue)), copies([one, two], queue)


@pytest.mark.parametrize("frozen", [False, True], ids=["seen", "while the gateway is stopped"])
def test_a_member_that_is_replaced_at_once_has_the_children_before_it_is_written_to(cluster, queue, frozen):
    """An empty server of the same address, before the gateway has seen that it was away."""
    gateway, http, (one, two, _) = cluster
    subscribe(http, queue)
    publish(http, queue, 4)
    workers = [pid for pid, line in children_of(gateway.process.pid).items() if "worker" in line] if frozen else []
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        two.kill()
        shutil.rmtree(two.data)
        two.start()
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    publish(http, queue, 12)
    until(lambda: bool(children(two, queue)))
    publish(http, queue, 20)
    publish_on(http, queue, two)
    assert all(items == copied for items, copied in copies([one, two], queue)), copies([one, two], queue)


def test_a_member_that_joins_has_the_children_before_it_is_written_to(cluster, queue):
    """Each job has its copy, also the first ones that the new member gets, which come while it joins."""
    gateway, http, many = cluster
    subscribe(http, queue)
    join(gateway, many)
    publish(http, queue, 30)
    until(lambda: up(http) == 3)
    publish(http, queue, 40)
    more = sum(publish_on(http, queue, each) for each in many)
    assert all(items == copied for items, copied in copies(many, queue)), copies(many, queue)
    assert sum(items for items, _ in copies(many, queue)) == 70 + more


def test_a_member_that_returns_empty_gets_the_children_again(cluster, queue):
    """Its disk was replaced. The writes that wait for it, too, are copied."""
    _, http, (one, two, _) = cluster
    subscribe(http, queue)
    two.kill()
    until(lambda: up(http) == 1)
    shutil.rmtree(two.data)
    two.start()
    publish(http, queue, 10)
    until(lambda: up(http) == 2)
    publish(http, queue, 12)
    assert all(items == copied for items, copied in copies([one, two], queue)), copies([one, two], queue)
    assert children(two, queue) == {f"{queue}+audit"}


def test_requests_that_create_and_delete_it_at_once_follow_one_another(cluster, queue):
    """One request at a time, in all workers, so each answer is true: it exists if it was created more often than it was
    deleted."""
    gateway, _, (one, two, _) = cluster
    barrier = threading.Barrier(4)

    def ask(method: str) -> tuple[str, int]:
        with gateway.client() as own:
            barrier.wait(60)
            return method, own.request(method, f"/queues/{queue}/subscriptions/audit").status_code

    exist = 0
    with ThreadPoolExecutor(4) as pool:
        for _ in range(examples(8, fewest=4)):
            answers = list(pool.map(ask, ["PUT", "DELETE", "PUT", "DELETE"]))
            assert {status for _, status in answers} <= {200, 201, 404}, answers
            exist += answers.count(("PUT", 201)) - answers.count(("DELETE", 200))
            assert len(children(one, queue)) == len(children(two, queue)) == exist, answers


def test_a_child_that_another_program_created_again_is_kept(cluster, queue):
    """It was gone on both members, so a return of a member tells nothing: its jobs are not deleted."""
    _, http, (one, two, _) = cluster
    subscribe(http, queue)
    assert http.delete(f"/queues/{queue}/subscriptions/audit").status_code == 200
    for each in (one, two):
        with contextlib.closing(each.client()) as client:
            assert client.put(f"{queue}+audit", b"precious") == b"STORED\r\n"
    two.kill()
    until(lambda: up(http) == 1)
    two.start()
    until(lambda: up(http) == 2)
    publish(http, queue, 10)
    assert children(one, queue) == children(two, queue) == {f"{queue}+audit"}
    assert http.get(f"/queues/{queue}+audit").json()["items"] >= 2


@pytest.mark.parametrize(
    ("gateway_is", "member_is"),
    [("kept", "frozen"), ("restarted", "killed"), *in_ci(("kept", "killed"), ("restarted", "frozen"))],
)
def test_subscriptions_that_were_deleted_while_a_member_was_away(cluster, new_queue, gateway_is, member_is):
    """One does not return with the member, also if no worker remembers the deletion by itself. One that was created
    again is on every member, and has no old jobs: the member deletes the old one before it has the new one."""
    gateway, http, (one, two, _) = cluster
    gone, again = new_queue(), new_queue()
    frozen, restarted = member_is == "frozen", gateway_is == "restarted"
    for queue in (gone, again):
        subscribe(http, queue)
    while copies([two], again)[0][1] < 3:
        publish(http, again, 1)
    if frozen:
        two.process.send_signal(signal.SIGSTOP)
    else:
        two.kill()
    try:
        until(lambda: up(http) == 1)
        for queue in (gone, again):
            answer = http.delete(f"/queues/{queue}/subscriptions/audit")
            assert (answer.status_code, answer.headers["queue-coverage"]) == (200, "1/2")
        assert http.put(f"/queues/{again}/subscriptions/audit").status_code == 503
        if restarted:
            gateway.kill()
            gateway.start()
    finally:
        if not frozen:
            two.start()
        else:
            two.process.send_signal(signal.SIGCONT)
    subscribe(http, again)
    assert copies([one, two], again)[1][1] == 0, "the old jobs are gone when the request succeeds"
    before = [items for items, _ in copies([one, two], again)]
    publish(http, again, 20)
    publish_on(http, again, two)
    publish(http, gone, 20)
    until(lambda: not children(one, gone) | children(two, gone))
    wait_for_looks(one, two)
    found = [(items - old, copied) for old, (items, copied) in zip(before, copies([one, two], again), strict=True)]
    assert all(items == copied for items, copied in found), found
    assert children(one, again) == children(two, again) == {f"{again}+audit"}
    assert children(one, gone) | children(two, gone) == set()
    assert http.get(f"/queues/{gone}+audit/next?timeout=0").status_code == 404


def test_polls_that_wait_while_a_member_returns_get_no_job_of_the_deleted_subscription(cluster, queue):
    """They would get it before the member has deleted the old one."""
    gateway, http, (one, two, _) = cluster
    path = f"/queues/{queue}/subscriptions/audit"
    subscribe(http, queue)
    while copies([two], queue)[0][1] < 6:
        assert http.post(f"/queues/{queue}/jobs", json="old").status_code == 201
    two.kill()
    until(lambda: up(http) == 1)
    assert http.delete(path).status_code == 200
    assert http.put(path).status_code == 503
    wait_for_looks(one)

    def poll(_: int) -> object:
        with gateway.client() as own:
            return own.get(f"/queues/{queue}+audit/next?timeout=25&ack=auto").json()["data"]

    with ThreadPoolExecutor(4) as pool:
        polls = [pool.submit(poll, number) for number in range(4)]
        until(lambda: one.waiters(f"{queue}+audit") == len(polls))
        two.start()
        subscribe(http, queue)
        while not all(each.done() for each in polls):
            assert http.post(f"/queues/{queue}/jobs", json="new").status_code == 201
            time.sleep(0.05)
        assert [each.result() for each in polls] == ["new"] * 4
