"""Any replica settles: over HTTP to the lease's owner, in time or not at all, and for replicas only."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from gateway.errors import GatewayError, LeaseForgotten, OutcomeUnknown, OwnerUnavailable
from gateway.forwarding.commands import LeaseCommand, Verb
from gateway.forwarding.replicas import PATH, PAUSES_S, SEAL_HEADER, Replicas
from gateway.forwarding.seal import Seal
from tests.api.keyring import Keyring
from tests.lab import plain
from tests.lab.ledger import check, figures, total
from tests.lab.processes import children_of
from tests.lab.waiting import until
from tests.leases.cluster import SECRET, Cluster, Replica, clustered

pytestmark = pytest.mark.usefixtures("ledger_balances")

LATER = "another secret of more than 32 bytes"
SHORT = ("--kestrel-command-timeout", "0.5")  # an order may take twice that


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose replicas stay alive."""
    with clustered(tmp_path_factory.mktemp("lasting")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pair(lasting: Cluster) -> list[Replica]:
    """Two replicas: one of two workers, and one of one. Both accept a second secret."""
    return [lasting.start("--workers", workers, secrets=(SECRET, LATER)) for workers in ("2", "1")]


@pytest.fixture(scope="module")
def hasty(lasting: Cluster) -> Replica:
    """One that waits for no other replica longer than a second."""
    return lasting.start(*SHORT)


@pytest.fixture(scope="module")
def remote(lasting: Cluster) -> Replica:
    """One that no other replica can reach, because the name that it advertises leads nowhere. Its environment names a
    proxy for every address."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:1")
        return lasting.start(host="nowhere.invalid")


@pytest.fixture
def cluster(lasting: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """More replicas, which a test may kill, in front of the same broker."""
    with clustered(tmp_path, lasting.broker) as own:
        yield own


def take(http: httpx.Client, queue: str) -> dict[str, str]:
    """A new job's lease."""
    return take_many(http, queue, 1)[0]


def take_many(http: httpx.Client, queue: str, count: int) -> list[dict[str, str]]:
    """The leases of that many new jobs."""
    jobs = {"jobs": [{"data": "work"}] * count}
    assert http.post(f"/queues/{queue}/jobs/batch", json=jobs).status_code == 201
    answers = [http.get(f"/queues/{queue}/next?timeout=5&lease=600") for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    return [answer.json()["lease"] for answer in answers]


def test_every_settlement_works_through_the_other_replica(pair: list[Replica], queue: str) -> None:
    """Ack, nack, reject, extend, inspect, and each again: as if it had been the owner."""
    owner, other = pair
    with owner.client() as here, other.client() as there:
        for _ in range(4):  # by whichever worker
            path = take(here, queue)["url"]
            assert there.get(path).json()["state"] == "held"
            assert there.post(path + "/extend", json={"lease": 100}).status_code == 200
            assert [there.post(path + "/ack").status_code for _ in range(2)] == [204, 204]
            assert here.post(path + "/nack").status_code == 409
            assert here.get(path).json()["state"] == "acked"
            assert there.post(path + "/reject").json()["code"] == "lease-settled"
        path = take(here, queue)["url"]
        assert there.post(path + "/nack", json={"position": "head", "reason": "not now"}).status_code == 204
        again = there.get(f"/queues/{queue}/next?timeout=5").json()
        assert here.get(path).json()["state"] == "nacked"
        assert here.post(again["lease"]["url"] + "/nack", json={"delay": 0.2}).status_code == 200
        third = here.get(f"/queues/{queue}/next?timeout=5").json()
        assert there.post(third["lease"]["url"] + "/reject", json={"reason": "bad"}).status_code in (200, 204)
        assert here.get(f"/queues/{queue}/next?timeout=0").status_code == 204


@pytest.fixture(scope="module")
def guarded(lasting: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Keyring, Replica, Replica]:
    """Keys of two tenants, `long` of `abcshop` and `short` of `shop`, and of an operator; two replicas with them."""
    keys = Keyring(tmp_path_factory.mktemp("guarded") / "keys.toml")
    keys.add("long", "abcshop")
    keys.add("short", "shop")
    keys.add("op", scopes="operator")
    owner, other = (lasting.start("--keys", str(keys.path)) for _ in range(2))
    return keys, owner, other


def test_an_id_that_was_signed_for_another_tenant_is_unknown_everywhere(
    guarded: tuple[Keyring, Replica, Replica], queue: str
) -> None:
    """`abcshop` and `shop`: letters of the tenant's name become part of no URL, here and at the other replica."""
    keys, owner, other = guarded
    with (
        keys.client(owner, "long") as long,
        keys.client(other, "long") as long_there,
        keys.client(owner, "short") as here,
        keys.client(other, "short") as there,
    ):
        lease = take(long, queue)["id"]
        raw = base64.urlsafe_b64decode(lease)
        moved = base64.urlsafe_b64encode(raw[:-16] + b"abc" + raw[-16:]).decode()
        for http in (here, there):
            for each in (lease, moved):
                answer = http.get(f"/leases/{each}")
                assert (answer.status_code, answer.json()["code"]) == (404, "lease-not-found")
        assert long_there.post(f"/leases/{lease}/ack").status_code == 204


def test_each_hop_is_counted(pair: list[Replica], queue: str) -> None:
    """An order is sent once and received once, between replicas and again between the workers of the owner's."""
    owner, other = pair
    before = [hops(each) for each in pair]
    with owner.client() as here:
        paths = [lease["url"] for lease in take_many(here, queue, 4)]
    for path in paths:
        with socket.create_connection(("127.0.0.1", other.port), 10) as connection:
            connection.sendall(f"POST {path}/ack HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 204 ")
    owned, passed = (
        {kind: hops(each)[kind] - then[kind] for kind in then} for each, then in zip(pair, before, strict=True)
    )
    assert (passed["replica", "sent"], owned["replica", "received"]) == (4, 4)
    assert (passed["replica", "received"], owned["replica", "sent"]) == (0, 0)
    assert owned["worker", "sent"] == owned["worker", "received"] <= 4
    assert passed["worker", "sent"] == passed["worker", "received"] == 0


def hops(replica: Replica) -> dict[tuple[str, str], int]:
    """Forwards of all its workers, once all have answered."""
    deadline_s = time.monotonic() + 60
    while total(
        found := figures(plain.get(replica.url + "/metrics").text, "workers", "forwards_total"),
        "workers",
        state="silent",
    ):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    kinds = [(peer, direction) for peer in ("worker", "replica") for direction in ("sent", "received")]
    return {kind: int(total(found, "forwards_total", peer=kind[0], direction=kind[1])) for kind in kinds}


def test_ack_and_next_and_settle_reach_both(pair: list[Replica], queue: str) -> None:
    """`next?ack=` of another replica's lease; many leases of both in one request, one result each."""
    owner, other = pair
    with owner.client() as here, other.client() as there:
        first = take(here, queue)
        answer = there.get(f"/queues/{queue}/next?timeout=0&ack={first['id']}")
        assert (answer.status_code, answer.headers["lease-acked"]) == (204, "true")
        assert here.get(first["url"]).json()["state"] == "acked"
        ids = [lease["id"] for lease in take_many(here, queue, 20) + take_many(there, queue, 5)]
        answer = there.post("/leases/settle", json={"acks": ids[:20], "nacks": [{"lease": each} for each in ids[20:]]})
        assert [each["status"] for each in answer.json()["results"][:20]] == [204] * 20
        assert {here.get(f"/leases/{each}").json()["state"] for each in ids[:20]} == {"acked"}


def test_a_replica_that_drains_settles_its_leases_through_another_one(
    cluster: Cluster, pair: list[Replica], queue: str
) -> None:
    """It closes each connection after one answer, so the other replica cannot ask it twice on a new one."""
    owner, other = cluster.start(), pair[1]
    with owner.client() as here, other.client() as there:
        leases = take_many(here, queue, 3)
        owner.process.send_signal(signal.SIGTERM)
        until(lambda: plain.get(owner.url + "/readyz").status_code == 503)
        assert [there.post(lease["url"] + "/ack").status_code for lease in leases] == [204] * 3
        assert owner.process.wait(60) == 0


def test_a_dead_owner_is_told_within_a_second(cluster: Cluster, pair: list[Replica], queue: str) -> None:
    """`kill -9` of the owner: 410 `outcome-unknown` without a time-out, also on a warm connection; its jobs go on."""
    owner, other = cluster.start("--workers", "2"), pair[1]
    with owner.client() as here, other.client() as there:
        leases = take_many(here, queue, 3)
        assert there.get(leases[0]["url"]).status_code == 200
        before = failures(there, "owner_dead")
        owner.kill()
        for lease in leases:
            answer = there.post(lease["url"] + "/ack")
            assert (answer.status_code, answer.json()["code"]) == (410, "outcome-unknown")
        assert [there.get(f"/queues/{queue}/next?timeout=2").status_code for _ in leases] == [200] * 3
        assert failures(there, "owner_dead") - before == 3
        owner.start()
        answer = there.post(leases[0]["url"] + "/ack")
        assert (answer.status_code, answer.json()["code"]) == (410, "outcome-unknown")


def failures(http: httpx.Client, reason: str) -> float:
    """How many forwards have failed at the replica for that reason."""
    return total(figures(http.get("/metrics").text, "forward_failures_total"), "forward_failures_total", reason=reason)


def test_a_frozen_owner_is_given_up_and_acts_no_more(cluster: Cluster, hasty: Replica, queue: str) -> None:
    """502 `outcome-unknown` by the deadline; thawed, it refuses what came too late, and the lease is as it was.

    First without a connection to it, and then on one that has been used.
    """
    owner = cluster.start("--workers", "2", *SHORT)
    with owner.client() as here, hasty.client() as there:
        for warm in (False, True):
            lease = take(here, queue)
            if warm:
                assert there.get(lease["url"]).status_code == 200
            before = failures(there, "unanswered")
            owner.freeze()
            began = time.monotonic()
            answers = [there.post(lease["url"] + "/ack") for _ in range(2)]
            took_s = time.monotonic() - began
            time.sleep(0.1)  # it is frozen past the last deadline for certain
            owner.thaw()
            assert [(each.status_code, each.json()["code"]) for each in answers] == [(502, "outcome-unknown")] * 2
            assert 1.8 < took_s < 10
            assert failures(there, "unanswered") - before == 2
            for _ in range(20):
                assert here.get(lease["url"]).json()["state"] == "held"
            assert there.post(lease["url"] + "/ack").status_code == 204


def test_an_owner_that_cannot_be_reached_was_not_asked(remote: Replica, pair: list[Replica], queue: str) -> None:
    """503 `lease-owner-unavailable` with Retry-After: the name that it advertises leads nowhere."""
    owner, other = remote, pair[1]
    with owner.client() as here, other.client() as there:
        lease = take(here, queue)
        answer = there.post(lease["url"] + "/ack")
        assert (answer.status_code, answer.json()["code"]) == (503, "lease-owner-unavailable")
        assert (answer.json()["retryable"], answer.headers["retry-after"]) == (True, "1")
        assert here.get(lease["url"]).json()["state"] == "held"


@pytest.mark.parametrize("ends_at", ["clock", "command"])
def test_a_command_that_was_sent_before_may_be_carried_out(ends_at: str) -> None:
    """The owner closes a connection and then refuses the command: unknown where it was sent, else not carried out."""
    seal = Seal([SECRET.encode()])
    owner, client = Replicas(seal), Replicas(seal)
    connections: list[asyncio.Task[object]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own_task = asyncio.current_task()
        assert own_task is not None
        connections.append(own_task)
        try:
            await answer(reader, writer, first=len(connections) == 1)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, first: bool) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
            order = owner.receive(fields[SEAL_HEADER], await reader.readexactly(int(fields["content-length"])))
            if first and (order is not None or ends_at == "clock"):
                return
            body, own = owner.answer(fields[SEAL_HEADER], None if order is None else OwnerUnavailable("busy"))
            writer.write(b"HTTP/1.1 200 OK\r\n%b: %b\r\n" % (SEAL_HEADER.encode(), own.encode()))
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))

    async def go() -> object:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            command = LeaseCommand(Verb.ACK, "x" * 56, time.monotonic() + 5)
            return await client.ask(f"http://127.0.0.1:{port}", command)
        except GatewayError as exc:
            return exc
        finally:
            client.close()
            server.close()
            await asyncio.gather(*connections)

    outcome = asyncio.run(go())
    assert len(connections) == 2
    assert type(outcome) is (OutcomeUnknown if ends_at == "command" else OwnerUnavailable)


def test_an_owner_that_is_being_killed_is_asked_until_it_refuses() -> None:
    """Its processes still accept connections and end each of them without an answer. Then it is gone: 410, not 502."""
    client = Replicas(Seal([SECRET.encode()]))
    connections = 0

    async def go() -> object:
        def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            if connections == 3:
                server.close()
            writer.close()

        server = await asyncio.start_server(end, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await client.ask(f"http://127.0.0.1:{port}", LeaseCommand(Verb.ACK, "x" * 56, time.monotonic() + 5))
        except GatewayError as exc:
            return exc
        finally:
            client.close()
            server.close()

    assert type(asyncio.run(go())) is LeaseForgotten
    assert connections == 3


def test_tenants_are_told_apart_across_replicas(guarded: tuple[Keyring, Replica, Replica], queue: str) -> None:
    """The client's key stays where it is: another tenant's lease is a 404 at any replica."""
    keys, owner, other = guarded
    with (
        keys.client(owner, "long") as here,
        keys.client(other, "short") as foreign,
        keys.client(other, "long") as there,
    ):
        path = take(here, queue)["url"]
        assert foreign.post(path + "/ack").status_code == 404
        assert foreign.get(path).status_code == 404
        assert there.post(path + "/ack").status_code == 204
    for replica in (owner, other):
        check(replica, keys.bearer("op"))


def test_secrets_change_one_replica_at_a_time(cluster: Cluster, pair: list[Replica], queue: str) -> None:
    """While two are accepted everything is settled; a replica that has neither knows no such lease."""
    before, during = pair[1], cluster.start(secrets=(LATER, SECRET))
    stranger = cluster.start(secrets=("a third secret of more than 32 bytes.",))
    with before.client() as one, during.client() as two, stranger.client() as three:
        assert two.post(take(one, queue)["url"] + "/ack").status_code == 204
        assert one.post(take(two, queue)["url"] + "/ack").status_code == 204
        assert three.post(take(one, queue)["url"] + "/ack").status_code == 404


def test_secrets_change_without_a_restart(cluster: Cluster, queue: str, tmp_path: Path) -> None:
    """Step by step, replica by replica: what was taken before is settled through the other, in each of them."""
    file = tmp_path / "secrets"
    new = "another secret, and 32 bytes or more"
    file.write_text(SECRET)
    flags = ("--cluster-secret-file", str(file))
    both = [cluster.start("--workers", workers, *flags, secrets=()) for workers in ("2", "1")]
    with both[0].client() as one, both[1].client() as two:
        first = take_many(one, queue, 6)
        for secrets in ((SECRET, new), (new, SECRET)):
            file.write_text("\n".join(secrets))
            for here, there, replica in ((one, two, both[0]), (two, one, both[1])):
                before = take(here, queue)
                reload(replica)
                assert there.post(before["url"] + "/ack").status_code == 204
                assert there.post(take(here, queue)["url"] + "/ack").status_code == 204
                assert there.post(first.pop()["url"] + "/ack").status_code == 204
        file.write_text("too short")
        reload(both[0])
        assert "too short" not in both[0].log.read_text()
        assert two.post(first.pop()["url"] + "/ack").status_code == 204

        file.write_text(new)
        late = take(one, queue)
        for replica in both:
            reload(replica)
        assert [each.post(first[0]["url"] + "/ack").status_code for each in (one, two)] == [404, 404]
        assert two.post(late["url"] + "/ack").status_code == 204
        # A worker that is started later has no older ones.
        old = {pid for pid, command in children_of(both[0].process.pid).items() if "process.worker" in command}
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        while old & children_of(both[0].process.pid).keys():
            time.sleep(0.005)
        with both[0].client() as fresh:
            assert two.post(take(fresh, queue)["url"] + "/ack").status_code == 204


def reload(replica: Replica) -> None:
    """SIGHUP, and back when each of its workers has read its files again."""
    ended = "reload: ended"
    before = replica.log.read_text().count(ended)
    replica.process.send_signal(signal.SIGHUP)
    workers = int(replica.flags[replica.flags.index("--workers") + 1])
    until(lambda: replica.log.read_text().count(ended) >= before + workers)


def sealed(body: bytes, path: str = PATH) -> dict[str, str]:
    return {SEAL_HEADER: Seal([SECRET.encode()]).request("POST", path, body), "Host": "replica.example"}


def message(order: LeaseCommand | None) -> bytes:
    return orjson.dumps({"nonce": "00" * 16, "order": order})


def test_orders_are_taken_from_replicas_only(pair: list[Replica], queue: str) -> None:
    """No seal, a seal on other bytes or another path, an order past its time or for a third: nothing is settled."""
    owner = pair[0]
    with owner.client() as here:
        lease = take(here, queue)
        late = LeaseCommand(Verb.ACK, lease["id"], time.monotonic() - 0.001)
        fresh = LeaseCommand(Verb.ACK, lease["id"], time.monotonic() + 30)
        good = message(fresh)
        for headers in (
            {},
            {SEAL_HEADER: ""},
            {SEAL_HEADER: "00" * 32},
            {SEAL_HEADER: "é"},
            sealed(message(late)),
            sealed(good, path="/leases"),
            {SEAL_HEADER: Seal([b"x" * 32]).request("POST", PATH, good)},
        ):
            encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            assert here.post(PATH, content=good, headers=encoded).status_code in (400, 401), headers
        assert here.get(PATH).status_code == 405
        assert here.post(PATH, content=b"x" * 70_000, headers=sealed(b"x" * 70_000)).status_code == 413
        for odd in (b"", b"{", b"[]", b'{"order":{}}', b'{"order":{"verb":"fly"}}', b"\xff"):
            assert here.post(PATH, content=odd, headers=sealed(odd)).status_code == 503
        answer = here.post(PATH, content=message(late), headers=sealed(message(late)))
        assert answer.json()["result"]["code"] == "lease-owner-unavailable"
        for subject, tenant in (("x", ""), (lease["id"], "evil"), (queue, "")):
            order = message(LeaseCommand(Verb.DROP_QUEUE, subject, time.monotonic() + 30, tenant=tenant))
            assert here.post(PATH, content=order, headers=sealed(order)).json()["result"]["error"] == "LeaseNotFound"
        assert here.get(lease["url"]).json()["state"] == "held"
        answer = here.post(PATH, content=good, headers=sealed(good))
        assert answer.json()["result"]["lease"]["state"] == "acked"
        Seal([SECRET.encode()]).check_answer(answer.headers[SEAL_HEADER], sealed(good)[SEAL_HEADER], answer.content)


class Impostor:
    """Listens where a replica was, and answers everything alike; counts what reached it."""

    def __init__(self, port: int, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65536))
                connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


ANSWERS = {
    "an unsealed 200": b'HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\n{"now_s":1.5,"result":null}\n',
    "a redirect": b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no HTTP": b"ERROR\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
    "a huge body": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{",
    "nothing": b"",
}


@pytest.fixture(scope="module")
def orphan(
    lasting: Cluster, hasty: Replica, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Replica, int, str]]:
    """A replica, the port of another that is dead, and the path of a lease that this one had."""
    with clustered(tmp_path_factory.mktemp("orphan"), lasting.broker) as own:
        owner = own.start()
        with owner.client() as here:
            path = take(here, "orphan")["url"]
        owner.kill()
        yield hasty, owner.port, path


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_is_no_replica_settles_nothing(orphan: tuple[Replica, int, str], answer: bytes) -> None:
    """Whatever listens where a replica was: 502 in time, no redirect is followed, no key of a client goes there."""
    other, port, path = orphan
    impostor = Impostor(port, answer.replace(b"{port}", b"%d" % port))
    try:
        began = time.monotonic()
        got = plain.post(other.url + path + "/ack", headers={"authorization": "Bearer mine", "cookie": "mine"})
        assert (got.status_code, got.json()["code"]) == (502, "outcome-unknown")
        assert time.monotonic() - began < 10
        assert 1 <= len(impostor.requests) <= len(PAUSES_S)
        for request in impostor.requests:
            assert request.startswith(f"POST {PATH} HTTP/1.1\r\n".encode())
            assert b"mine" not in request
            assert b"ack" not in request, "an order left before the owner had told its clock"
    finally:
        impostor.close()


def test_proxies_of_the_environment_are_not_asked(remote: Replica, pair: list[Replica], queue: str) -> None:
    """With a proxy set for the address that the owner advertises, orders still go straight to it."""
    owner, other = pair[0], remote
    with owner.client() as here, other.client() as there:
        assert there.post(take(here, queue)["url"] + "/ack").status_code == 204


def test_many_settlements_at_once_share_a_few_connections(pair: list[Replica], queue: str) -> None:
    """40 leases, twenty at a time, through the wrong replica: every ack is 204, and there are fewer connections."""
    owner, other = pair
    with owner.client() as here:
        paths = [lease["url"] for lease in take_many(here, queue, 40)]
    with concurrent.futures.ThreadPoolExecutor(20) as crowd, plain.client(base_url=other.url, timeout=30) as there:
        codes = list(crowd.map(lambda path: there.post(path + "/ack").status_code, paths))
    assert codes == [204] * 40
    assert 1 <= established(owner.port, of=other) <= 2 * 16


def established(port: int, of: Replica) -> int:
    """Connections to that port that a gateway's processes hold."""
    inodes = set()
    for pid in [of.process.pid, *children(of.process.pid)]:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and f"socket:[{line[9]}]" in inodes for line in lines)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
