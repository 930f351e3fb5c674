"""Idempotency-Key: the same request stores once, whichever worker gets it and whatever is killed."""

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gateway.delivery.idempotency import ledger as ledger_module
from gateway.delivery.idempotency.idempotent_enqueue import Idempotency, ids
from gateway.delivery.idempotency.ledger import Ledger, Reply
from gateway.errors import IdempotencyInFlight, IdempotencyKeyReused, OutcomeUnknown, QueueFull
from tests.api.relay import Relay
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples
from tests.lab.gateway import Running, running

KEY = "idempotency-key"


def put(http, queue, key, body=b"1", **headers):
    return http.post(f"/queues/{queue}/jobs", content=body, headers={KEY: key, **headers})


def drain(http, queue):
    """Takes every job; the ids in their order."""
    found = []
    while (answer := http.get(f"/queues/{queue}/next?timeout=0")).status_code == 200:
        found.append(answer.json()["id"])
        assert http.post(answer.json()["lease"]["url"] + "/ack").status_code == 204
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A gateway of two workers."""
    with running(tmp_path_factory.mktemp("pair") / "data", "--workers", "2") as gateway:
        yield gateway


@pytest.fixture
def two(pair):
    with pair.client() as client:
        yield client


def test_a_thousand_at_once_store_one_job(pair, two):
    """1,000 requests with one key over 50 connections to 2 workers: one job, all answers alike."""

    body = b'{"n":1}'
    request = (
        b"POST /queues/burst/jobs HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: one\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )

    async def ask(streams, request):
        reader, writer = streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(re.search(rb"content-length: (\d+)", head)[1])
        return head[9:12], await reader.readexactly(size), b"idempotency-replayed: true" in head

    async def connections():
        """50 of them, some to each worker: which one takes a connection is the kernel's choice."""
        found = []
        while True:
            for _, writer in found[:25]:
                writer.close()
            found = found[25:]
            path = f"/queues/nobody{len(found)}{os.urandom(4).hex()}"
            while len(found) < 50:
                found.append(await asyncio.open_connection("127.0.0.1", pair.port))
                hello = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                assert (await ask(found[-1], hello))[0] == b"404"
            if len({line.split()[2] for line in pair.log.read_text().splitlines() if path in line}) == 2:
                return found

    async def producer(streams):
        return [await ask(streams, request) for _ in range(20)]

    async def burst():
        opened = await connections()
        answers = await asyncio.gather(*(producer(each) for each in opened))
        for _, writer in opened:
            writer.close()
        return [each for found in answers for each in found]

    answers = asyncio.run(burst())
    alike = {(status, text) for status, text, _ in answers}
    assert (len(answers), len(alike), sum(not replayed for _, _, replayed in answers)) == (1000, 1, 1)
    ((status, text),) = alike
    assert status == b"201"
    assert drain(two, "burst") == [json.loads(text)["id"]]
    workers = {line.split()[2] for line in pair.log.read_text().splitlines() if "/queues/burst/jobs" in line}
    assert len(workers) == 2


def test_another_request_under_the_key_is_refused(http, queue):
    """Another body, type, query, ordering key or event under the key is a 422; nothing of it is stored."""
    first = put(http, queue, "k", b"1")
    for body, headers, query in [
        (b"2", {}, ""),
        (b"1", {"content-type": "text/plain"}, ""),
        (b"1", {}, "?ttl=5"),
        (b"1", {"ordering-key": "o"}, ""),
        (b"1", {"ce-id": "1", "ce-specversion": "1.0", "ce-type": "t", "ce-source": "s"}, ""),
    ]:
        answer = http.post(f"/queues/{queue}/jobs{query}", content=body, headers={KEY: "k", **headers})
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    again = put(http, queue, "k", b"1")
    assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (201, first.content, "true")
    assert drain(http, queue) == [first.json()["id"]]


@pytest.mark.parametrize("quiet", ["?receipt=none", "?ttl=60&receipt=none", "?rec%65ipt=none&ttl=60"])
def test_the_receipt_is_no_part_of_the_request(http, queue, quiet):
    """It changes the answer and not what is stored: the key is replayed, as a receipt or empty."""
    loud = quiet.replace("receipt=none", "").replace("rec%65ipt=none", "").replace("&", "")
    path = f"/queues/{queue}/jobs"
    first = http.post(path + loud, content=b"1", headers={KEY: "k"})
    assert first.status_code == 201
    for query, status in (
        (quiet, 204),
        (loud, 201),
        (loud.rstrip("?") + ("&" if "=" in loud else "?") + "receipt=full", 201),
    ):
        again = http.post(path + query, content=b"1", headers={KEY: "k"})
        assert (again.status_code, again.headers.get("idempotency-replayed")) == (status, "true"), query
    assert http.post(f"{path}?receipt=none&ttl=5", content=b"1", headers={KEY: "k"}).status_code == 422
    assert drain(http, queue) == [first.json()["id"]]


@pytest.mark.parametrize("quiet", [("?receipt=none", {}), ("", {"prefer": "return=minimal"})])
def test_a_batch_that_was_stored_in_part_is_never_replayed_as_a_success_that_nobody_reads(http, queue, quiet):
    """The first answer was 207; a sender that wants no receipt gets no 2xx for it, and nothing is stored again."""
    query, headers = quiet
    lines = {"content-type": "application/x-ndjson"}
    first = put(http, queue, "k", b"1\n{\n3", **lines)
    assert first.status_code == 207
    again = http.post(f"/queues/{queue}/jobs{query}", content=b"1\n{\n3", headers={KEY: "k", **lines, **headers})
    assert (again.status_code, again.json()["code"], again.json()["retryable"]) == (400, "partly-stored", False)
    assert again.json()["detail"].startswith("2 of 3 jobs were stored. The first failure: invalid-body: ")
    assert len(drain(http, queue)) == 2


def test_a_batch_that_is_refused_in_part_is_stored_once(http, queue):
    """The key of a request that wants no receipt is not free for another try, which would have new ids."""
    stored = set()
    for _ in range(2):
        answer = http.post(
            f"/queues/{queue}/jobs?receipt=none",
            content=b"1\n{\n3",
            headers={KEY: "k", "content-type": "application/x-ndjson"},
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "partly-stored")
        stored |= set(drain(http, queue))
    assert len(stored) == 2


def test_keys_are_kept_a_queue(http, new_queue):
    """The same key on another queue is another key."""
    first, second = new_queue(), new_queue()
    assert put(http, first, "k").json()["id"] != put(http, second, "k").json()["id"]


@pytest.mark.parametrize(
    "value",
    [b"", b"x" * 256, b"\xc3\xa4", b"a\tb", b'""', b'"', b'"a', b'"a"b"', b'"a\\b"', b'"%b"' % (b"x" * 256)],
)
def test_a_key_that_is_none_is_told(http, queue, value):
    """Empty, too long, not printable ASCII, or with quotes that are none: a 400, nothing stored."""
    answer = http.post(f"/queues/{queue}/jobs", content=b"1", headers={KEY: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert http.get(f"/queues/{queue}").status_code == 404


def test_two_keys_are_told(http, queue):
    """Two headers are no key."""
    answer = http.post(f"/queues/{queue}/jobs", content=b"1", headers=[(KEY, "a"), (KEY, "a")])
    assert answer.status_code == 400


def test_a_key_may_stand_in_quotes(http, queue):
    """A structured-field string and the bare text are one key; 255 characters are fine."""
    first = put(http, queue, '"a\\"b c"')
    assert put(http, queue, 'a"b c').content == first.content
    for long in ("x" * 255, '\\"' * 255, "x y" * 85):
        first = put(http, queue, f'"{long}"')
        assert first.status_code == 201
        assert put(http, queue, long.replace("\\", "") if long[0] != "\\" else f'"{long}"').content == first.content


def test_a_refused_request_does_not_use_the_key_up(http, queue):
    """What is surely not stored is forgotten, so the corrected request may bear the same key."""
    json_type = {"content-type": "application/json"}
    for _ in range(2):
        assert put(http, queue, "k", b"{", **json_type).status_code == 400
    assert put(http, queue, "k", b"x" * ((1 << 20) + 1)).status_code == 413
    stored = put(http, queue, "k", b"{}", **json_type)
    assert (stored.status_code, "idempotency-replayed" in stored.headers) == (201, False)


def test_many_jobs_are_stored_once(http, queue):
    """A batch is replayed as it was answered, also where some of it failed."""
    for key, body, status in [("all", b"1\n2\n3", 201), ("some", b"1\n{\n3", 207)]:
        first = put(http, queue, key, body, **{"content-type": "application/x-ndjson"})
        again = put(http, queue, key, body, **{"content-type": "application/x-ndjson"})
        assert (first.status_code, again.status_code) == (status, status)
        assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
        stored = [each["id"] for each in first.json()["results"] if each["status"] == 201]
        assert drain(http, queue) == stored
        assert len(set(stored)) == len(stored)


def test_a_large_body_is_compared_whole(http, queue):
    """Two bodies that differ in their last byte are two requests."""
    body = os.urandom(1 << 20)
    first = put(http, queue, "k", body)
    assert put(http, queue, "k", body).content == first.content
    assert put(http, queue, "k", body[:-1] + bytes([body[-1] ^ 1])).status_code == 422


def test_keys_outlive_restart_and_kill(tmp_path):
    """After a stop and after kill -9 the first answer is given again. No file if no key was used."""
    with running(tmp_path / "data") as gateway, gateway.client() as http:
        http.post("/queues/q/jobs", content=b"1")
        assert not list((tmp_path / "data").glob("idempotency*"))
        first = put(http, "q", "k")
        assert gateway.stop() == 0
        gateway.start()
        second = put(http, "q", "k")
        gateway.kill()
        gateway.start()
        third = put(http, "q", "k")
        assert first.content == second.content == third.content
        assert len(drain(http, "q")) == 2


def test_a_file_that_cannot_be_used_is_told(tmp_path):
    """A damaged file: keyed requests are a 503 and store nothing, others go on; when it is gone all go on."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "idempotency.db").write_bytes(b"no database at all " * 100)
    with running(data) as gateway, gateway.client() as http:
        answer = put(http, "q", "k")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert http.get("/queues/q").status_code == 404
        assert http.post("/queues/q/jobs", content=b"1").status_code == 201
        (data / "idempotency.db").unlink()
        assert put(http, "q", "k").status_code == 201


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A gateway whose Kestrel is behind a relay that may lose answers."""
    base = tmp_path_factory.mktemp("far")
    (base / "queues.toml").write_text('[queues."twice*"]\nduplicates_ok = true\n')
    with BrokerProcess(base / "near", "--fsync", "off") as broker, Relay(broker.port) as relay:
        with running(base / "data", "--kestrel", relay.address, "--queues", str(base / "queues.toml")) as gateway:
            yield gateway, relay


def test_an_unknown_outcome_is_tried_again_under_the_same_id(far, queue):
    """The answer of the put is lost: 502; the retry stores the job under the id it had."""
    gateway, relay = far
    with gateway.client() as http:
        relay.lose = 2
        for _ in range(2):
            assert put(http, queue, "k").json()["code"] == "outcome-unknown"
        assert put(http, queue, "k", b"2").status_code == 422
        stored = put(http, queue, "k")
        assert (stored.status_code, "idempotency-replayed" in stored.headers) == (201, False)
        assert put(http, queue, "k").headers["idempotency-replayed"] == "true"
        assert drain(http, queue) == [stored.json()["id"]] * 3


def test_where_duplicates_are_fine_the_gateway_tries_again_itself(far):
    """`duplicates_ok`: one lost answer is a 201 and two copies with one id; two lost ones are a 502."""
    gateway, relay = far
    with gateway.client() as http:
        relay.lose = 1
        stored = http.post("/queues/twice/jobs", content=b"1")
        assert stored.status_code == 201
        assert drain(http, "twice") == [stored.json()["id"]] * 2
        relay.lose = 2
        assert http.post("/queues/twice/jobs", content=b"1").json()["code"] == "outcome-unknown"
        relay.lose = 1
        many = http.post("/queues/twice-many/jobs", content=b"1\n2", headers={"content-type": "application/x-ndjson"})
        assert many.status_code == 201


def test_kill_9_while_keys_are_used(tmp_path):
    """Workers and the whole gateway are killed again and again: in the end each key has one id, and more than one
    copy only where an attempt had no answer."""
    keys = [f"key-{number}" for number in range(examples(60, fewest=20))]
    unanswered: set[str] = set()
    answers: dict[str, str] = {}
    chance = random.Random(3)
    with running(tmp_path / "data", "--workers", "2") as gateway:
        for kill in ("worker", "worker", "all"):
            todo = [key for key in keys if key not in answers]
            chance.shuffle(todo)
            half = threading.Event()
            send = [
                threading.Thread(target=send_all, args=(gateway, todo[part::4], answers, unanswered, half))
                for part in range(4)
            ]
            for each in send:
                each.start()
            assert half.wait(20)
            if kill == "all":
                gateway.kill()
            else:
                os.kill(chance.choice(workers(gateway)), signal.SIGKILL)
            for each in send:
                each.join(30)
            if kill == "all":
                gateway.start()
        with gateway.client() as http:
            for key in keys:
                final = put(http, "q", key, key.encode())
                assert final.status_code == 201
                assert answers.setdefault(key, final.json()["id"]) == final.json()["id"]
            copies = Counter(drain(http, "q"))
    assert copies.keys() == set(answers.values())
    assert len(copies) == len(keys)
    assert {key for key in keys if copies[answers[key]] > 1} <= unanswered


def send_all(gateway, keys, answers, unanswered, half):
    """Sends each key once; reports when a third of them is done."""
    with gateway.client() as http:
        for number, key in enumerate(keys):
            if number >= len(keys) // 3:
                half.set()
            try:
                answer = put(http, "q", key, key.encode())
            except httpx.TransportError:
                unanswered.add(key)
                continue
            if answer.status_code == 201:
                answers[key] = answer.json()["id"]
            else:
                unanswered.add(key)
    half.set()


def workers(gateway: Running) -> list[int]:
    """The pids of the workers of this very gateway."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == gateway.process.pid and b"gateway.process.worker" in command:
            found.append(int(status.parent.name))
    return found


# Below HTTP


PLACE = ("", "q", "k")
DONE = Reply(201, b"{}")


def make(path, owner, *, lives=True, wait_s=0.05, **options):
    """One worker's share of the file."""
    options = {"window_s": 60, "limit": 1000, **options}
    ledger = Ledger(path / "idempotency.db", owner, lambda _: lives, **options)
    return ledger, Idempotency(ledger, wait_s=wait_s, hold_s=10)


def stores(log, reply=DONE):
    async def store(new_id):
        log.append(new_id())
        if isinstance(reply, Exception):
            raise reply
        return reply

    return store


def test_a_duplicate_waits_only_so_long(tmp_path):
    """In this worker and in another: 409 when the first is not done in time, its reply when it is."""

    async def run():
        _, here = make(tmp_path, "a")
        _, there = make(tmp_path, "b")
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow(_new_id):
            begun.set()
            await go.wait()
            return DONE

        first = asyncio.ensure_future(here.once(PLACE, b"f", slow))
        await begun.wait()
        for each in (here, there):
            with pytest.raises(IdempotencyInFlight):
                await each.once(PLACE, b"f", stores([]))
        with pytest.raises(IdempotencyKeyReused):
            await there.once(PLACE, b"g", stores([]))
        _, patient = make(tmp_path, "c", wait_s=20)
        later = asyncio.ensure_future(patient.once(PLACE, b"f", stores([])))
        go.set()
        assert (await first, await later) == ((DONE, False), (DONE, True))
        for each in (here, there, patient):
            await each.close()

    asyncio.run(run())


def test_a_dead_worker_s_claim_is_taken_over_with_its_ids(tmp_path):
    """The next one stores under the same ids; a failure then does not free the key, for the first may have stored."""

    async def run():
        ledger, _ = make(tmp_path, "a")
        entry = await ledger.claim(PLACE, b"f", 10)
        await ledger.close()
        _, other = make(tmp_path, "b", lives=False)
        log = []
        with pytest.raises(QueueFull):
            await other.once(PLACE, b"f", stores(log, QueueFull("full")))
        with pytest.raises(OutcomeUnknown):
            await other.once(PLACE, b"f", stores(log, OutcomeUnknown("lost")))
        assert await other.once(PLACE, b"f", stores(log)) == (DONE, False)
        assert await other.once(PLACE, b"f", stores(log)) == (DONE, True)
        assert log == [entry.seed.hex()] * 3
        await other.close()

    asyncio.run(run())


def test_a_claim_left_by_a_cancelled_request_is_taken_over(tmp_path):
    """Cancelled while it stores: the same worker goes on with the same ids, at once."""

    async def run():
        _, here = make(tmp_path, "a")
        log = []

        async def stuck(new_id):
            log.append(new_id())
            await asyncio.Event().wait()

        first = asyncio.ensure_future(here.once(PLACE, b"f", stuck))
        while not log:
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await here.once(PLACE, b"f", stores(log)) == (DONE, False)
        assert log[0] == log[1]
        await here.close()

    asyncio.run(run())


def test_a_defect_leaves_the_outcome_unknown(tmp_path):
    """Whatever a store raises, the next one has the same ids."""

    async def run():
        _, here = make(tmp_path, "a")
        log = []
        with pytest.raises(ZeroDivisionError):
            await here.once(PLACE, b"f", stores(log, ZeroDivisionError()))
        await here.once(PLACE, b"f", stores(log))
        assert log[0] == log[1]
        await here.close()

    asyncio.run(run())


def test_a_key_is_forgotten_after_its_window(tmp_path):
    """Then it is a new one, with a new id."""

    async def run():
        ledger, _ = make(tmp_path, "a", window_s=0)
        seeds = set()
        for _ in range(3):
            entry = await ledger.claim(PLACE, b"f", -1)
            assert entry.mine
            assert entry.fresh
            await ledger.settle(PLACE, DONE)
            seeds.add(entry.seed)
        assert len(seeds) == 3
        await ledger.close()

    asyncio.run(run())


def test_the_oldest_go_beyond_the_limit(tmp_path, monkeypatch):
    """The number of keys stays bounded; those in the making are kept."""
    monkeypatch.setattr(ledger_module, "SWEEP_EVERY_CLAIMS", 1)

    async def run():
        ledger, _ = make(tmp_path, "a", limit=10)
        await ledger.claim(("", "q", "held"), b"f", 60)
        for number in range(40):
            place = ("", "q", str(number))
            await ledger.claim(place, b"f", 60)
            await ledger.settle(place, DONE)
        await ledger.close()

    asyncio.run(run())
    with sqlite3.connect(tmp_path / "idempotency.db") as file:
        kept = {key for (key,) in file.execute("SELECT key FROM entries")}
    file.close()
    assert "held" in kept
    assert "39" in kept
    assert len(kept) <= 12


def test_ids_of_one_seed_are_the_same_and_many():
    """A batch that is sent again gets its ids again."""
    first, again, other = (ids(seed) for seed in (b"a" * 16, b"a" * 16, b"b" * 16))
    made = [first() for _ in range(1000)]
    assert made == [again() for _ in range(1000)]
    assert len({*made, *(other() for _ in range(1000))}) == 2000
    assert all(len(each) == 32 for each in made)


def test_a_keyed_batch_of_bad_lines_takes_little_room(gateway, http, queue):
    """The first answer has every reason; what is kept of it for a day is small, whatever the lines hold."""
    lines = [b"1"] + [b"{" + os.urandom(40).hex().encode() for _ in range(999)]
    headers = {"content-type": "application/x-ndjson"}
    answers = [put(http, queue, "bad", b"\n".join(lines), **headers) for _ in range(2)]
    first, again = (answer.json()["results"] for answer in answers)
    assert [answer.status_code for answer in answers] == [207, 207]
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert all("detail" in each for each in first[1:])
    codes = [(each["status"], each.get("code"), each.get("id")) for each in first]
    assert codes == [(each["status"], each.get("code"), each.get("id")) for each in again]
    good = put(http, queue, "good", b"\n".join([b"1"] * 1000), **headers)
    assert put(http, queue, "good", b"\n".join([b"1"] * 1000), **headers).json() == good.json()
    with sqlite3.connect(gateway.data / "idempotency.db") as file:
        sizes = dict(file.execute("SELECT key, length(body) FROM entries WHERE queue = ?", (queue,)))
    file.close()
    assert sizes["bad"] <= 8192
    assert sizes["good"] < len(good.content) / 2
