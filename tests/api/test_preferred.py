"""Next from several queues over HTTP: the first named queue that has a job wins."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.test_jobs import waiters
from tests.lab.examples import examples
from tests.lab.gateway import running
from tests.lab.waiting import until

pytestmark = pytest.mark.usefixtures("ledger_balances")


def put(http, name, *values):
    for value in values:
        assert http.post(f"/queues/{name}/jobs", json=value).status_code == 201


def names(queue):
    return [f"{queue}-{each}" for each in ("high", "mid", "low")]


def take(http, queues, timeout=0, **query):
    return http.get("/next", params={"queue": queues, "timeout": timeout, **query})


def test_the_first_named_queue_with_a_job_wins(http, queue):
    """Whatever came first; the answer names the queue, and the others keep their jobs in order."""
    high, mid, low = queues = names(queue)
    put(http, low, 1, 2)
    put(http, mid, 3)
    put(http, high, 4)
    got = [take(http, queues) for _ in range(4)]
    assert [(each.json()["queue"], each.json()["data"]) for each in got] == [(high, 4), (mid, 3), (low, 1), (low, 2)]
    assert [each.headers["queue-name"] for each in got] == [high, mid, low, low]
    assert all(each.json()["attempt"] == 1 for each in got)
    for each in got:
        assert http.post(each.json()["lease"]["url"] + "/ack").status_code == 204
    assert take(http, queues).status_code == 204
    put(http, low, 5)
    put(http, high, 6)
    assert take(http, [low, mid, high]).json()["data"] == 5


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_job_that_comes_while_it_waits_is_delivered_at_once(http, queue, place):
    """On any of the queues, at most 100 ms late (and what a loaded machine adds)."""
    queues = names(queue)
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(take, http, queues, 20)
        until(lambda: all(waiters(http, each) for each in queues))
        began_s = time.monotonic()
        put(http, queues[place], place)
        answer = poll.result(30)
        assert (answer.json()["queue"], answer.json()["data"]) == (queues[place], place)
        assert time.monotonic() - began_s < 10, "the poll waits for 20 s"


def test_every_form_names_the_queue(http, queue):
    """Bytes and events have it in the header."""
    queues = names(queue)
    for query, accept in (("raw", ""), (None, "application/cloudevents+json")):
        http.post(f"/queues/{queues[1]}/jobs", content=b"x", headers={"Content-Type": "text/plain"})
        params = {"queue": queues, "timeout": 0, "ack": "auto"} | ({"format": query} if query else {})
        answer = http.get("/next", params=params, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["queue-name"], answer.headers["lease-acked"]) == (
            200,
            queues[1],
            "true",
        )


def test_the_call_with_a_body(http, queue):
    """`{"jobs": []}` if there is none; ack first, and the length of the lease."""
    queues = names(queue)
    assert http.post("/next", json={"queues": queues, "timeout": 0}).json() == {"jobs": []}
    put(http, queues[2], 1, 2)
    first = http.post("/next", json={"queues": queues, "timeout": 0, "lease_seconds": 300})
    assert (first.json()["jobs"][0]["queue"], first.headers["queue-name"]) == (queues[2], queues[2])
    second = http.post("/next", json={"queues": queues, "timeout": 0, "ack": first.json()["lease"]["id"]})
    assert (second.json()["jobs"][0]["data"], second.headers["lease-acked"]) == (2, "true")
    assert http.post(second.json()["lease"]["url"] + "/nack", json={"position": "head"}).status_code == 204
    assert http.get(f"/queues/{queues[2]}").json()["backlog"] == 1


def test_a_paused_queue_counts_as_empty(http, queue):
    """Also one that is paused or resumed while the poll waits; if all are paused, the answer says so."""
    high, mid, low = queues = names(queue)
    put(http, high, 1)
    put(http, low, 2)
    assert http.put(f"/queues/{high}/pause", json={}).status_code == 200
    assert take(http, queues).json()["queue"] == low
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(take, http, queues, 20)
        until(lambda: waiters(http, mid))
        assert http.delete(f"/queues/{high}/pause").status_code in {200, 204}
        assert poll.result(30).json()["queue"] == high
        for each in queues:
            http.put(f"/queues/{each}/pause", json={})
        answer = take(http, queues)
        assert (answer.status_code, answer.headers["queue-paused"]) == (204, "true")
        poll = pool.submit(take, http, queues, 20)
        put(http, low, 3)
        http.delete(f"/queues/{low}/pause")
        assert poll.result(30).json()["data"] == 3
        poll = pool.submit(take, http, queues, 3)
        until(lambda: waiters(http, low))
        http.put(f"/queues/{low}/pause", json={})
        put(http, low, 4)
        answer = poll.result(30)
        assert (answer.status_code, answer.headers["queue-paused"]) == (204, "true")


CAPPED = """
[queues.bytes]
format = "raw"
[queues.one-at-a-time]
max_in_flight = 1
[queues.slow]
rate = 0.2
"""


def test_a_queue_at_its_limit_counts_as_empty(tmp_path):
    """It is served again when its lease ends, also to a poll that waits; if all are at a limit, the answer says so.

    A raw queue is served like any other."""
    (tmp_path / "queues.toml").write_text(CAPPED)
    flags = ("--queues", str(tmp_path / "queues.toml"), "--workers", "2")
    queues = ["one-at-a-time", "low"]
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http, ThreadPoolExecutor(1) as pool:
        put(http, "one-at-a-time", 1, 2, 3)
        put(http, "low", 4)
        first = take(http, queues).json()
        assert (first["queue"], first["data"]) == ("one-at-a-time", 1)
        assert take(http, queues).json()["data"] == 4
        answer = take(http, ["one-at-a-time"], 0.3)
        assert (answer.status_code, answer.headers["queue-limited"]) == (204, "max_in_flight")
        poll = pool.submit(take, http, queues, 20)
        until(lambda: waiters(http, "low"))
        assert http.post(first["lease"]["url"] + "/ack").status_code == 204
        second = poll.result(30).json()
        assert (second["queue"], second["data"]) == ("one-at-a-time", 2)
        http.post(second["lease"]["url"] + "/ack")
        assert take(http, ["low", "one-at-a-time"], ack="auto").json()["data"] == 3
        assert http.post("/queues/bytes/jobs", content=b"\0raw").status_code == 201
        raw = take(http, ["bytes", "low"], format="raw", ack="auto")
        assert (raw.content, raw.headers["queue-name"]) == (b"\0raw", "bytes")
        put(http, "slow", 5, 6)
        assert take(http, ["slow", "low"], 1).json()["data"] == 5
        answer = take(http, ["slow", "one-at-a-time"], 0.3)
        assert answer.status_code == 204
        answer = take(http, ["slow"], 0.3)
        assert (answer.status_code, answer.headers["queue-limited"]) == (204, "rate")


def test_subscriptions_can_be_named(http, queue):
    """With `%2B`, and with the space that a `+` in a query is; one that does not exist is a 404."""
    assert http.put(f"/queues/{queue}/subscriptions/audit").status_code in {200, 201}
    for name in ("%2B", "+"):
        put(http, queue, 1)
        answer = http.get(f"/next?queue={queue}-high&queue={queue}{name}audit&timeout=2&ack=auto")
        assert answer.headers["queue-name"] == f"{queue}+audit"
    assert take(http, [f"{queue}+nosuch", queue]).json()["code"] == "queue-not-found"


def test_a_client_that_leaves_strands_nothing(gateway, http, queue):
    """Many times, waiting on three queues: the next consumer gets the job."""
    queues = names(queue)
    path = "/next?timeout=30&" + "&".join(f"queue={each}" for each in queues)
    for number in range(examples(30, fewest=12)):
        connection = gateway.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        if number % 2:
            until(lambda: all(waiters(http, each) for each in queues))
        connection.close()
        put(http, queues[number % 3], number)
        answer = take(http, queues, 5, ack="auto")
        assert (answer.status_code, answer.json()["data"]) == (200, number)


BAD = [
    ("", "queue: name 1 to 32 queues"),
    ("queue=", "queue: '' is not"),
    ("queue=a&queue=a__b", "queue: 'a__b' is not"),
    ("queue=a&queue=a%2Fb", "queue: 'a/b' is not"),
    ("&".join(f"queue=q{n}" for n in range(33)), "queue: given more than the maximum of 32 times"),
    ("queue=a&timeout=99", "timeout: 99 is not between"),
    ("queue=a&lease_seconds=0", "lease_seconds: 0 is not between"),
    ("queue=a&ack=x", "ack: 'x' is not"),
    ("queues=a", "unknown query parameter 'queues'"),
]


@pytest.mark.parametrize(("query", "detail"), BAD)
def test_bad_input_is_refused(http, query, detail):
    """A 400 that says what is wrong."""
    answer = http.get("/next?" + query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize(
    "body", [{}, {"queues": []}, {"queues": ["a b"]}, {"queues": ["q"] * 33}, {"queues": "q"}, {"queue": ["q"]}, []]
)
def test_a_bad_body_is_refused(http, body):
    """As a 400."""
    assert http.post("/next", json=body).json()["code"] == "invalid-body"


def test_reserved_names_are_no_queues(http):
    """As in a path."""
    assert take(http, ["dead"]).json()["code"] == "invalid-name"
    assert http.post("/next", json={"queues": ["q", "subdead"]}).json()["code"] == "invalid-name"


def test_a_prefetch_takes_nothing(http, queue):
    """As `next`; and HEAD is not allowed."""
    put(http, queue, 1)
    answer = http.get(f"/next?queue={queue}", headers={"Sec-Purpose": "prefetch"})
    assert answer.json()["code"] == "forbidden-prefetch"
    assert http.head(f"/next?queue={queue}").status_code == 405


def test_limits_count_a_poll_once_and_for_each_queue(tmp_path):
    """A poll of three queues is one waiting poll; a queue at its limit refuses it."""
    with (
        running(tmp_path / "data", "--max-waiters", "2", "--max-queue-waiters", "1") as gateway,
        gateway.client() as http,
    ):
        queues = ["high", "mid", "low"]
        stop = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(take, http, queues, 20)
            until(lambda: all(waiters(http, each) for each in queues))
            assert take(http, ["other", "low"], 5).json()["code"] == "too-many-waiters"
            second = pool.submit(take, http, ["other", "more"], 20)
            until(lambda: waiters(http, "more"))
            assert take(http, ["third"], 5).json()["code"] == "too-many-waiters"
            put(http, "low", 1)
            put(http, "more", 2)
            assert (first.result(10).json()["data"], second.result(10).json()["data"]) == (1, 2)
            stop.set()
