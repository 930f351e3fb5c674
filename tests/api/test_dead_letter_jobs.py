"""Dead letters one by one over HTTP: listed, deleted and moved back by their ids."""

import contextlib
import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue

import pytest

from tests.api.test_dead_letters import rejected
from tests.cluster.rig import before, brokers
from tests.lab.examples import examples
from tests.lab.gateway import running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port
from tests.lab.processes import children_of
from tests.lab.waiting import until

POLICIES = """
[queues.bytes]
format = "raw"
"""


@pytest.fixture(scope="module")
def broker_port():
    return free_port()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, broker_port):
    """A gateway whose broker memcache clients reach, too."""
    directory = tmp_path_factory.mktemp("letters")
    (directory / "queues.toml").write_text(POLICIES)
    flags = ("--broker-listen", f"127.0.0.1:{broker_port}", "--queues", str(directory / "queues.toml"))
    with running(directory / "data", *flags) as gateway:
        yield gateway


@pytest.fixture
def http(gateway):
    with gateway.client() as client:
        yield client


@pytest.fixture
def memcache(broker_port):
    client = MemcacheClient(f"127.0.0.1:{broker_port}")
    yield client
    client.close()


def letters(http, queue, query="max=100"):
    answer = http.get(f"/queues/{queue}/dead-letters/jobs?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["letters"]


def ids(http, queue):
    return [each["id"] for each in letters(http, queue)]


def envelope(number, queue="q", **changes):
    """A dead letter as the gateway stores it."""
    event = {
        "specversion": "1.0", "id": f"job-{number}", "source": f"/queues/{queue}", "type": "kestrel-gateway.job",
        "time": "2026-01-31T12:00:00Z", "enqueued": "2026-01-31T12:00:00Z", "attempt": 1, "deadreason": "rejected",
        "deadtime": f"2026-01-31T12:{number // 60 % 60:02}:{number % 60:02}.000Z", "deadqueue": queue,
        "deadattempts": 3, "datacontenttype": "application/json",
    }  # fmt: skip
    return json.dumps(event | changes | {"data": number}).encode()


def test_the_oldest_are_listed_with_their_reasons(http, queue):
    """In order, and they stay in order, however often they are listed."""
    made = rejected(http, queue, "first", "second", "third")
    before_s = time.time()
    for _ in range(3):
        shown = letters(http, queue)
        assert [each["id"] for each in shown] == [each["letter"] for each in shown] == made
    first = shown[0]
    assert (first["queue"], first["reason"], first["error"], first["attempts"]) == (queue, "rejected", "first", 1)
    assert first["enqueued_at"] <= first["dead_at"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before_s + 1))
    assert (first["expires_at"], first["bytes"] > 200, "data" in first) == (None, True, False)
    body = http.get(f"/queues/{queue}/dead-letters/jobs?max=2&payload=true").json()
    assert ([each["data"] for each in body["letters"]], body["left"], body["queue"]) == (["first", "second"], 1, queue)
    assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 3


def test_one_is_deleted_and_the_others_keep_their_order(http, queue):
    """A second time it is a 404; the queue itself is untouched."""
    made = rejected(http, queue, *"abcd")
    assert http.delete(f"/queues/{queue}/dead-letters/jobs/{made[2]}").status_code == 204
    assert ids(http, queue) == [made[0], made[1], made[3]]
    answer = http.delete(f"/queues/{queue}/dead-letters/jobs/{made[2]}")
    assert (answer.status_code, answer.json()["code"]) == (404, "dead-letter-not-found")


def test_one_is_moved_back(http, queue):
    """It is a first attempt on its queue, and no dead letter any more."""
    made = rejected(http, queue, *"abc")
    answer = http.post(f"/queues/{queue}/dead-letters/jobs/{made[1]}/redrive")
    assert (answer.status_code, answer.json()) == (200, {"redriven": 1, "expired": 0, "left": 2})
    assert ids(http, queue) == [made[0], made[2]]
    job = http.get(f"/queues/{queue}/next").json()
    assert (job["id"], job["attempt"], job["data"]) == (made[1], 1, "b")
    assert not [name for name in job["attributes"] if name.startswith("dead")]
    again = http.post(f"/queues/{queue}/dead-letters/jobs/{made[1]}/redrive")
    assert (again.status_code, again.json()["code"]) == (404, "dead-letter-not-found")


def test_one_or_all_are_moved_to_another_queue(http, queue):
    """`to`; a raw queue gets the body."""
    made = rejected(http, queue, *"abc")
    assert http.post(f"/queues/{queue}/dead-letters/jobs/{made[0]}/redrive", json={"to": "bytes"}).status_code == 200
    assert http.get("/queues/bytes/next?ack=auto&format=raw").content == b'"a"'
    assert http.post(f"/queues/{queue}/redrive", json={"to": f"{queue}-repaired"}).json()["redriven"] == 2
    taken = [http.get(f"/queues/{queue}-repaired/next?ack=auto").json() for _ in range(2)]
    assert [each["id"] for each in taken] == made[1:]
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_an_expired_one_is_dropped_on_its_way(http, queue, memcache):
    """The answer says so."""
    memcache.put(f"{queue}__dead", envelope(1, queue, expires="2026-02-01T00:00:00Z"))
    assert letters(http, queue)[0]["expires_at"] == "2026-02-01T00:00:00.000Z"
    answer = http.post(f"/queues/{queue}/dead-letters/jobs/job-1/redrive")
    assert answer.json() == {"redriven": 0, "expired": 1, "left": 0}
    assert letters(http, queue) == []


def test_only_those_with_a_reason_are_moved(http, queue, memcache):
    """The others keep their places."""
    for number in range(6):
        memcache.put(f"{queue}__dead", envelope(number, queue, deadreason=("rejected", "max-attempts")[number % 2]))
    answer = http.post(f"/queues/{queue}/redrive", json={"reason": "max-attempts", "max": 2})
    assert answer.json() == {"redriven": 2, "expired": 0, "left": 4}
    assert ids(http, queue) == ["job-0", "job-2", "job-4", "job-5"]
    assert [http.get(f"/queues/{queue}/next?ack=auto").json()["id"] for _ in range(2)] == ["job-1", "job-3"]
    answer = http.post(f"/queues/{queue}/redrive", json={"reason": "max-attempts"})
    assert answer.json() == {"redriven": 1, "expired": 0, "left": 3}
    answer = http.post(f"/queues/{queue}/redrive", json={"reason": "max-attempts"})
    assert answer.json() == {"redriven": 0, "expired": 0, "left": 3}


def test_a_rate_is_kept(http, queue, memcache):
    """Ten at twenty a second take at least 0.45 s."""
    for number in range(10):
        memcache.put(f"{queue}__dead", envelope(number, queue))
    began_s = time.monotonic()
    assert http.post(f"/queues/{queue}/redrive", json={"rate": 20}).json()["redriven"] == 10
    assert time.monotonic() - began_s >= 0.45


def test_a_rate_does_not_delay_the_answer(http, queue, memcache):
    """Nothing is waited for behind the last dead letter: one at 0.1 a second would take 10 seconds more."""
    for number in range(2):
        memcache.put(f"{queue}__dead", envelope(number, queue))
    body = {"max": 1, "rate": 0.1}
    assert http.post(f"/queues/{queue}/redrive", json=body, timeout=9).json()["redriven"] == 1


def test_letters_without_an_id_have_a_digest(http, queue, memcache):
    """Raw items, and ids that no path can hold; the digest addresses one of two letters with the same id, too."""
    for item in (b"not an envelope", envelope(1, queue, id="a/b"), envelope(2, queue), envelope(3, queue, id="job-2")):
        memcache.put(f"{queue}__dead", item)
    shown = letters(http, queue, "payload=true")
    assert [each["id"] for each in shown] == [None, "a/b", "job-2", "job-2"]
    assert [each["letter"].partition("-")[0] for each in shown] == ["digest", "digest", "job", "job"]
    assert (shown[0]["data_base64"], shown[0]["reason"], shown[0]["attempts"]) == ("bm90IGFuIGVudmVsb3Bl", None, None)
    for each in (shown[1], shown[0], shown[2]):
        assert http.delete(f"/queues/{queue}/dead-letters/jobs/{each['letter']}").status_code == 204
    assert [each["bytes"] for each in letters(http, queue)] == [len(envelope(3, queue, id="job-2"))]


def test_the_dead_letters_of_a_subscription_are_its_own(http, queue):
    """One is moved back to the subscription only; the queue and its other copies get nothing."""
    assert http.put(f"/queues/{queue}/subscriptions/audit").status_code in {200, 201}
    http.post(f"/queues/{queue}/jobs", json=1)
    job = http.get(f"/queues/{queue}+audit/next").json()
    assert http.post(job["lease"]["url"] + "/reject", json={"reason": "no"}).status_code == 204
    assert letters(http, queue) == []
    (letter,) = letters(http, f"{queue}+audit")
    assert (letter["id"], letter["queue"]) == (job["id"], f"{queue}+audit")
    path = f"/queues/{queue}+audit/dead-letters/jobs/{letter['letter']}"
    assert http.post(path + "/redrive").json()["redriven"] == 1
    assert http.get(f"/queues/{queue}").json()["items"] == 1
    again = http.get(f"/queues/{queue}+audit/next").json()
    assert (again["id"], again["attempt"]) == (job["id"], 1)
    http.post(again["lease"]["url"] + "/reject")
    assert http.delete(path).status_code == 204
    into_parent = http.post(f"/queues/{queue}/redrive", json={"to": queue})
    assert into_parent.json()["code"] == "queue-has-children"


def test_the_dead_letters_of_a_raw_queue_come_back_byte_for_byte(http, memcache):
    """The list shows the bytes, and a redrive stores them as they were."""
    memcache.put("bytes", b"\x00 raw \xff")
    job = http.get("/queues/bytes/next").json()
    assert http.post(job["lease"]["url"] + "/reject").status_code == 204
    (letter,) = letters(http, "bytes", "payload=true")
    assert letter["data_base64"] == job["data_base64"]
    assert http.post(f"/queues/bytes/dead-letters/jobs/{letter['letter']}/redrive").status_code == 200
    assert memcache.get("bytes") == b"\x00 raw \xff"


def test_those_that_another_consumer_holds_count_as_left(http, queue, memcache):
    """In the figures, in the list, and in what one redrive and a redrive of many answer."""
    made = rejected(http, queue, *"abcd")
    assert memcache.get(f"{queue}__dead/open") is not None
    assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 4
    listed = http.get(f"/queues/{queue}/dead-letters/jobs?max=2").json()
    assert ([each["id"] for each in listed["letters"]], listed["left"]) == (made[1:3], 2)
    one = http.post(f"/queues/{queue}/dead-letters/jobs/{made[1]}/redrive")
    assert one.json() == {"redriven": 1, "expired": 0, "left": 3}
    assert http.post(f"/queues/{queue}/redrive").json() == {"redriven": 2, "expired": 0, "left": 1}
    assert memcache.get(f"{queue}__dead/abort") is None
    assert http.post(f"/queues/{queue}/redrive").json() == {"redriven": 1, "expired": 0, "left": 0}


def test_one_that_another_consumer_holds_is_not_said_to_be_gone(http, queue, memcache):
    """409 while the other has it, and it is there afterwards."""
    made = rejected(http, queue, *"ab")
    assert memcache.get(f"{queue}__dead/open") is not None
    for answer in (
        http.delete(f"/queues/{queue}/dead-letters/jobs/{made[0]}"),
        http.post(f"/queues/{queue}/dead-letters/jobs/{made[0]}/redrive"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "dead-letter-held")
        assert answer.json()["retryable"]
    assert ids(http, queue) == made[1:]
    assert memcache.get(f"{queue}__dead/abort") is None
    assert http.delete(f"/queues/{queue}/dead-letters/jobs/{made[0]}").status_code == 204


def test_nothing_is_created_by_asking(http):
    """An unknown queue is a 404 in every call."""
    path = "/queues/never-there/dead-letters/jobs"
    answers = [http.get(path), http.delete(path + "/x"), http.post(path + "/x/redrive")]
    assert {(each.status_code, each.json()["code"]) for each in answers} == {(404, "queue-not-found")}
    assert http.get("/queues/never-there").status_code == 404


BAD = [
    ("GET", "jobs?max=0", None, "invalid-parameter"),
    ("GET", "jobs?max=101", None, "invalid-parameter"),
    ("GET", "jobs?payload=yes", None, "invalid-parameter"),
    ("GET", "jobs?cursor=1", None, "invalid-parameter"),
    ("DELETE", "jobs/" + "x" * 1025, None, "invalid-name"),
    ("DELETE", "jobs/x?max=1", None, "invalid-parameter"),
    ("POST", "jobs/x/redrive", {"to": "a b"}, "invalid-body"),
    ("POST", "jobs/x/redrive", {"max": 1}, "invalid-body"),
    ("POST", "jobs/x/redrive", {"to": "dead"}, "invalid-name"),
    ("POST", "../redrive", {"rate": 0}, "invalid-body"),
    ("POST", "../redrive", {"reason": "bored"}, "invalid-body"),
    ("POST", "../redrive", {"to": "x__y"}, "invalid-body"),
]


def test_bad_input_is_refused(http, queue):
    """A 400 that says what is wrong, and nothing is done."""
    made = rejected(http, queue, "a")
    for method, path, body, code in BAD:
        answer = http.request(method, f"/queues/{queue}/dead-letters/{path}".replace("/dead-letters/..", ""), json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, code), (path, body)
        assert ids(http, queue) == made, (path, body)


def test_several_servers(tmp_path):
    """Merged by the time of death; what is not found while a server is down is a 503, and what is found is done."""
    with brokers(tmp_path, 3) as servers, before(tmp_path, servers) as gateway, gateway.client() as http:
        for number in range(12):
            servers[number % 3].client().put("q__dead", envelope(number))
        assert ids(http, "q") == [f"job-{number}" for number in range(12)]
        assert [each["id"] for each in letters(http, "q", "max=4")] == [f"job-{number}" for number in range(4)]
        assert http.delete("/queues/q/dead-letters/jobs/job-7").status_code == 204
        assert http.post("/queues/q/dead-letters/jobs/job-5/redrive").status_code == 200
        servers[2].kill()
        answer = http.get("/queues/q/dead-letters/jobs?max=100")
        left = [f"job-{number}" for number in (0, 1, 3, 4, 6, 9, 10)]
        assert ([each["id"] for each in answer.json()["letters"]], answer.headers["queue-coverage"]) == (left, "2/3")
        for call in ("DELETE", "jobs/job-8"), ("POST", "jobs/job-8/redrive"), ("DELETE", "jobs/none"):
            path = f"/queues/q/dead-letters/{call[1]}"
            answer = http.request(call[0], path)
            assert (answer.status_code, answer.json()["code"]) == (503, "backend-unavailable")
            assert answer.headers["queue-coverage"] == "2/3"
        assert http.delete("/queues/q/dead-letters/jobs/job-9").status_code == 204
        servers[2].start()
        until(lambda: http.delete("/queues/q/dead-letters/jobs/job-8").status_code == 204)
        assert http.get("/queues/q/dead-letters").json()["items"] == 8


def test_searches_in_two_workers_do_not_hide_letters_from_each_other(tmp_path):
    """Each list is complete and in order, however many run; it is complete also after a worker was killed within a
    search. Kestrel puts back what that one had in any order."""
    port = free_port()
    names = [f"job-{number}" for number in range(30)]
    flags = ("--broker-listen", f"127.0.0.1:{port}", "--workers", "2")
    with (
        running(tmp_path / "data", *flags) as gateway,
        contextlib.closing(MemcacheClient(f"127.0.0.1:{port}")) as writer,
        ThreadPoolExecutor(8) as pool,
    ):
        for number in range(len(names)):
            writer.put("q__dead", envelope(number))

        def search(number: int) -> list[str]:
            with gateway.client(headers={"connection": "close"}) as http:
                if number % 4 == 3:
                    assert http.delete("/queues/q/dead-letters/jobs/none").json()["code"] == "dead-letter-not-found"
                    return names
                return ids(http, "q")

        numbers = range(examples(40, fewest=14))
        assert list(pool.map(search, numbers)) == [names] * len(numbers)
        workers = [pid for pid, line in children_of(gateway.process.pid).items() if "process.worker" in line]
        begun = [pool.submit(search, 0) for _ in range(8)]
        os.kill(workers[0], signal.SIGKILL)
        wait(begun)
        until(lambda: len(search(0)) == len(names))
        assert [sorted(each) for each in pool.map(search, numbers)] == [sorted(names)] * len(numbers)


def consume(port, turns, taken, aborted):
    """Another consumer of the dead letters: takes one at each turn, and gives back a part of them."""
    chance = random.Random(7)
    client = MemcacheClient(f"127.0.0.1:{port}")
    try:
        while turns.get():
            time.sleep(chance.uniform(0, 0.01))
            deadline_s = time.monotonic() + 60
            while (item := client.get("q__dead/open")) is None:  # a search may have all of them now
                assert time.monotonic() < deadline_s
            if chance.random() < aborted:
                client.get("q__dead/abort")
            else:
                client.get("q__dead/close")
                taken.append(json.loads(item)["id"])
    finally:
        client.close()


LONG = int(os.environ.get("KESTREL_GATEWAY_TEST_LETTERS", "150"))


@pytest.mark.parametrize(
    ("count", "calls", "aborted"),
    [
        (110, 9, 0),
        pytest.param(500, LONG, 0, marks=pytest.mark.slow),
        pytest.param(500, LONG, 0.3, marks=pytest.mark.slow),
    ],
)
def test_many_letters_under_another_consumer(tmp_path, count, calls, aborted):
    """List, delete and redrive single ones while another consumer takes some: nothing lost or doubled, order kept.

    A consumer that gives one back puts it at the head, whatever is there by then; so there the order is its own."""
    port = free_port()
    chance = random.Random(calls)
    with running(tmp_path / "data", "--broker-listen", f"127.0.0.1:{port}") as gateway, gateway.client() as http:
        writer = MemcacheClient(f"127.0.0.1:{port}")
        for number in range(count):
            writer.put("q__dead", envelope(number))
        turns, taken, done, unclear = SimpleQueue(), [], [], 0
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(consume, port, turns, taken, aborted)
            try:
                for number in range(calls):
                    if number % 5 == 0:
                        turns.put(True)
                    name = f"job-{chance.randrange(count)}"
                    path = f"/queues/q/dead-letters/jobs/{name}"
                    match number % 3:
                        case 0:
                            found = [int(each.removeprefix("job-")) for each in ids(http, "q")]
                            assert len(found) > 50
                            continue
                        case 1:
                            answer = http.delete(path)
                        case 2:
                            answer = http.post(path + "/redrive")
                    if answer.status_code in {200, 204}:
                        done.append((name, answer.status_code))
                    else:
                        assert answer.json()["code"] in {"dead-letter-not-found", "dead-letter-held"}, answer.text
                        unclear += 1
            finally:
                turns.put(False)
            other.result(60)
        redriven = [json.loads(item)["id"] for item in writer.take_all("q")]
        left = [json.loads(item)["id"] for item in writer.take_all("q__dead")]
        writer.close()
    assert redriven == [name for name, status in done if status == 200]
    everything = taken + left + [name for name, _ in done]
    assert sorted(everything) == sorted(f"job-{number}" for number in range(count)), "one is lost or doubled"
    numbers = [int(name.removeprefix("job-")) for name in left]
    assert aborted or numbers == sorted(numbers), "the order is broken"
    assert len(done) > calls / 4
    assert taken
