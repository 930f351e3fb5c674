"""Streams over HTTP, as a client sees them."""

import json
import os
import time

import pytest

from tests.api.test_jobs import waiters
from tests.batches.test_lines import peak_bytes
from tests.lab.gateway import running
from tests.lab.ledger import figures, total
from tests.lab.waiting import until
from tests.streams.reader import StreamReader

pytestmark = pytest.mark.usefixtures("ledger_balances")


def put(http, queue, *values):
    for value in values:
        assert http.post(f"/queues/{queue}/jobs", json=value).status_code == 201


def take(http, queue, timeout=5):
    """A job, acked: its data and its attempt."""
    answer = http.get(f"/queues/{queue}/next", params={"timeout": timeout})
    assert answer.status_code == 200
    job = answer.json()
    assert http.post(job["lease"]["url"] + "/ack").status_code == 204
    return job["data"], job["attempt"]


def test_jobs_come_in_order_as_slots_become_free(gateway, http, queue):
    """`window` jobs, each under a lease of its own; a settlement on another connection makes room for the next."""
    put(http, queue, *range(6))
    with StreamReader(gateway, f"/queues/{queue}/stream?window=3&lease_seconds=120") as stream:
        opened = stream.next("open")
        assert (opened["window"], opened["queues"], opened["lease_seconds"]) == (3, [queue], 120)
        held = stream.jobs(3)
        assert [job["data"] for job in held] == [0, 1, 2]
        assert all(job["attempt"] == 1 and job["queue"] == queue for job in held)
        assert http.get(f"/queues/{queue}").json()["items"] == 3
        assert http.post(held[1]["lease"]["url"] + "/ack").status_code == 204
        assert stream.next()["data"] == 3
        assert http.post(held[0]["lease"]["url"] + "/reject").status_code == 204
        assert stream.next()["data"] == 4
        assert http.post(held[2]["lease"]["url"] + "/nack", json={"delay": 60}).status_code == 200
        assert stream.next()["data"] == 5
        put(http, queue, 6)
        assert http.post(held[2]["lease"]["url"] + "/ack").status_code == 409


def test_a_job_that_comes_later_comes_at_once(gateway, http, queue):
    """The stream waits like a poll."""
    with StreamReader(gateway, f"/queues/{queue}/stream?window=2") as stream:
        stream.next("open")
        until(lambda: waiters(http, queue) == 1)
        put(http, queue, "late")
        job = stream.next()
        assert job["data"] == "late"
        assert http.post(job["lease"]["url"] + "/ack").status_code == 204


def test_the_head_keeps_proxies_from_collecting(gateway, http, queue):
    """NDJSON unless events are preferred."""
    accepts = {
        "": "application/x-ndjson",
        "*/*": "application/x-ndjson",
        "application/json": "application/x-ndjson",
        "image/png": "application/x-ndjson",
        "text/event-stream": "text/event-stream",
        "text/event-stream;q=0.5, application/x-ndjson": "application/x-ndjson",
        "application/x-ndjson;q=0.5, text/event-stream": "text/event-stream",
    }
    for accept, media_type in accepts.items():
        with StreamReader(gateway, f"/queues/{queue}/stream?lifetime=0.1", accept=accept) as stream:
            assert stream.head.headers["content-type"] == media_type
            assert stream.head.headers["cache-control"] == "no-store, no-transform"
            assert stream.head.headers["x-accel-buffering"] == "no"
            stream.next("open")
            assert stream.next("end")["reason"] == "lifetime"


def test_events_have_no_ids(gateway, http, queue):
    """A browser would send an id back, and a lease is a secret. `Last-Event-ID` is ignored."""
    put(http, queue, {"a": "\u2028\n"}, 2)
    path = f"/queues/{queue}/stream?window=2&lifetime=0.3"
    with StreamReader(gateway, path, accept="text/event-stream", last_event_id="7") as stream:
        stream.next("open")
        jobs = stream.jobs(2)
        assert [job["data"] for job in jobs] == [{"a": "\u2028\n"}, 2]
        assert stream.next("end")["retryable"]
        with pytest.raises(EOFError):
            stream.line()
    for job in jobs:
        assert http.post(job["lease"]["url"] + "/ack").status_code == 204


def test_a_job_is_one_line(gateway, http, queue):
    """Also one that was written on several, as bytes, as text, or as an event."""
    body = b'{\r\n  "a": 1.10,\n  "b": "\\n"\n}'
    http.post(f"/queues/{queue}/jobs", content=body, headers={"Content-Type": "application/json"})
    http.post(f"/queues/{queue}/jobs", content=b"a\r\nb\n", headers={"Content-Type": "text/plain"})
    http.post(f"/queues/{queue}/jobs", content=b"\0\n", headers={"Content-Type": "application/octet-stream"})
    with StreamReader(gateway, f"/queues/{queue}/stream?ack=auto") as stream:
        stream.next("open")
        line = stream.head.readline()
        assert json.loads(line)["data"] == {"a": 1.1, "b": "\n"}
        assert b'"a": 1.10,' in line
        assert stream.next()["data"] == "a\r\nb\n"
        assert stream.next()["data_base64"] == "AAo="


def test_a_client_that_leaves_gives_everything_back_in_order(gateway, http, queue):
    """At once. A job that was sent has used an attempt; the one that waits on its queue has not."""
    put(http, queue, *range(7))
    with StreamReader(gateway, f"/queues/{queue}/stream?window=6") as stream:
        stream.next("open")
        held = stream.jobs(6)
        assert http.post(held[2]["lease"]["url"] + "/ack").status_code == 204
        stream.next()
    assert [take(http, queue) for _ in range(6)] == [(n, 2) for n in (0, 1, 3, 4, 5, 6)]
    gone = http.post(held[0]["lease"]["url"] + "/ack").json()
    assert gone["code"] == "lease-lost"


def test_a_stream_ends_after_its_lifetime_and_its_leases_stay(gateway, http, queue):
    """Nothing more is given after the `end`, the connection can be used again, and leases are settled as ever."""
    put(http, queue, 1, 2)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=1&lifetime=0.3") as stream:
        stream.next("open")
        job = stream.next()
        end = stream.next("end")
        assert (end["reason"], end["retryable"]) == ("lifetime", True)
        with pytest.raises(EOFError):
            stream.line()
        stream.connection.request("GET", "/livez")
        assert stream.connection.getresponse().read()
    assert http.get(job["lease"]["url"]).json()["state"] == "held"
    assert http.post(job["lease"]["url"] + "/ack").status_code == 204
    assert take(http, queue) == (2, 1)


def test_at_most_once(gateway, http, queue):
    """`ack=auto`: each job is acked before it is sent, so a window of one gets them all."""
    put(http, queue, *range(5))
    with StreamReader(gateway, f"/queues/{queue}/stream?window=1&ack=auto") as stream:
        stream.next("open")
        jobs = stream.jobs(5)
        assert [job["data"] for job in jobs] == list(range(5))
        assert http.get(jobs[0]["lease"]["url"]).json()["state"] == "acked"
        assert http.post(jobs[4]["lease"]["url"] + "/ack").status_code == 204


def test_several_queues(gateway, http, queue):
    """The first one that has a job comes first; a subscription is one of them."""
    high, low = f"{queue}-high", f"{queue}-low"
    assert http.put(f"/queues/{queue}/subscriptions/audit").status_code in {200, 201}
    put(http, low, 1)
    put(http, high, 2)
    put(http, queue, 3)
    path = f"/stream?queue={high}&queue={queue}%2Baudit&queue={low}&window=2"
    with StreamReader(gateway, path) as stream:
        assert stream.next("open")["queues"] == [high, f"{queue}+audit", low]
        jobs = stream.jobs(2)
        assert [(job["queue"], job["data"]) for job in jobs] == [(high, 2), (f"{queue}+audit", 3)]
        put(http, high, 4)
        assert http.post(jobs[0]["lease"]["url"] + "/ack").status_code == 204
        assert stream.next()["data"] == 4
    assert take(http, f"{queue}+audit") == (3, 2)
    with StreamReader(gateway, f"/queues/{queue}/subscriptions/nosuch/stream") as stream:
        assert stream.refused["code"] == "queue-not-found"


def test_a_paused_queue_gives_nothing_until_it_is_resumed(gateway, http, queue):
    """The stream stays open."""
    put(http, queue, 1, 2)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=1") as stream:
        stream.next("open")
        job = stream.next()
        assert http.put(f"/queues/{queue}/pause", json={}).status_code == 200
        assert http.post(job["lease"]["url"] + "/ack").status_code == 204
        until(lambda: http.get(f"/queues/{queue}").json()["items"] == 1)
        assert http.delete(f"/queues/{queue}/pause").status_code in {200, 204}
        assert stream.next()["data"] == 2


BAD = [
    ("window=0", "window: '0' is not a whole number from 1 to 1000"),
    ("window=1001", "window: '1001' is not a whole number from 1 to 1000"),
    ("window=1.5", "window: '1.5' is not"),
    ("lifetime=0", "lifetime: 0 is not between 0.1 and 3600 seconds"),
    ("lifetime=3601", "lifetime: 3601 is not between"),
    ("lease_seconds=0", "lease_seconds: 0 is not between"),
    ("lease=43201", "lease: 43201 is not between"),
    ("ack=x", "ack: 'x' is unknown; the only value is auto"),
    ("timeout=5", "unknown query parameter 'timeout'"),
    ("format=raw", "unknown query parameter 'format'"),
    ("window=1&window=2", "window: "),
]


@pytest.mark.parametrize(("query", "detail"), BAD)
@pytest.mark.parametrize("path", ["/queues/{queue}/stream?", "/stream?queue={queue}&"])
def test_bad_input_is_refused(http, queue, path, query, detail):
    """A 400 that says what is wrong."""
    answer = http.get(path.format(queue=queue) + query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert answer.json()["detail"].startswith(detail)


def test_bad_names_and_verbs_are_refused(http, queue):
    """As `next` does; a prefetch and HEAD take nothing."""
    assert http.get("/stream").json()["detail"].startswith("queue: name 1 to 32 queues")
    assert http.get("/queues/a__b/stream").json()["code"] == "invalid-name"
    assert http.get("/stream?queue=a%2Fb").json()["code"] == "invalid-parameter"
    assert http.head(f"/queues/{queue}/stream").status_code == 405
    assert http.post(f"/queues/{queue}/stream").status_code == 405
    answer = http.get(f"/queues/{queue}/stream", headers={"Sec-Purpose": "prefetch"})
    assert answer.json()["code"] == "forbidden-prefetch"


def test_a_window_counts_as_its_leases(tmp_path):
    """However many are open; its end frees them. One that does not fit is refused before anything is taken."""
    with running(tmp_path / "data", "--max-tenant-leases", "5") as gateway, gateway.client() as http:
        put(http, "q", 1, 2)
        with StreamReader(gateway, "/queues/q/stream?window=6") as stream:
            assert (stream.head.status, stream.refused["code"]) == (503, "too-many-leases")
            assert "6 more leases" in stream.refused["detail"]
        with StreamReader(gateway, "/queues/q/stream?window=5") as stream:
            stream.next("open")
            jobs = stream.jobs(2)
            assert http.get("/queues/other/next?timeout=0").json()["code"] == "too-many-leases"
            assert http.post(jobs[0]["lease"]["url"] + "/ack").status_code == 204
            assert http.get("/queues/other/next?timeout=0").json()["code"] == "too-many-leases"
        until(lambda: http.get("/queues/other/next?timeout=0").status_code == 204)
        with StreamReader(gateway, "/queues/q/stream?window=2&lifetime=0.3") as stream:
            stream.next("open")
            job = stream.next()
            stream.next("end")
        with StreamReader(gateway, "/queues/q/stream?window=5") as stream:
            assert stream.refused["code"] == "too-many-leases"
        assert http.post(job["lease"]["url"] + "/ack").status_code == 204
        with StreamReader(gateway, "/queues/q/stream?window=5&lifetime=0.1") as stream:
            assert stream.head.status == 200
            stream.next("open")
            stream.next("end")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A gateway with short times; each test uses a queue of its own. Items of `raw` are bytes."""
    folder = tmp_path_factory.mktemp("impatient")
    (folder / "queues.toml").write_text('[queues.raw]\nformat = "raw"\n')
    times = ("--stream-keepalive", "0.1", "--body-timeout", "0.2")
    with running(folder / "data", *times, "--queues", str(folder / "queues.toml")) as gateway:
        yield gateway


def test_signs_of_life(impatient):
    """After --stream-keepalive without a job, again and again."""
    with impatient.client() as http:
        with StreamReader(impatient, "/queues/signs/stream") as stream:
            stream.next("open")
            assert [stream.line() for _ in range(3)] == [{"type": "keepalive"}] * 3
            put(http, "signs", 1)
            assert stream.next()["data"] == 1
            assert stream.next("keepalive")


def test_a_drain_ends_streams_and_leaves_their_leases(tmp_path):
    """The lease is acked within the grace over another connection; what is not settled comes again."""
    with running(tmp_path / "data", "--grace", "20") as gateway:
        with gateway.client() as http:
            put(http, "q", 1, 2, 3)
            with StreamReader(gateway, "/queues/q/stream?window=2") as stream:
                stream.next("open")
                jobs = stream.jobs(2)
                gateway.process.terminate()
                assert stream.next("end")["reason"] == "draining"
                with pytest.raises(EOFError):
                    stream.line()
            assert http.post(jobs[0]["lease"]["url"] + "/ack").status_code == 204
            nacked = http.post(jobs[1]["lease"]["url"] + "/nack", json={"position": "head"})
            assert nacked.status_code == 204
        assert gateway.process.wait(20) == 0
        gateway.start()
        with gateway.client() as http:
            assert [take(http, "q")[0] for _ in range(2)] == [2, 3]
            assert http.get("/queues/q/next?timeout=0").status_code == 204


LARGE = "x" * 200_000
MORE_THAN_FITS = 25
"""So many of them are more than what waits in the buffers between gateway and client: 15. Source: tcp_wmem, 4 MiB."""
STOPPED_S = float(os.environ.get("KESTREL_GATEWAY_TEST_STOPPED_S", "0"))


def put_large(http, queue, count):
    """Jobs of LARGE in one request."""
    headers = {"content-type": "application/x-ndjson", "prefer": "return=minimal"}
    lines = b'"%b"\n' % LARGE.encode() * count
    assert http.post(f"/queues/{queue}/jobs", content=lines, headers=headers).status_code == 204


def leases_open(http):
    """The open leases of all workers."""
    return total(figures(http.get("/metrics").text, "leases_open"), "leases_open")


def attempts_of_all(http, queue):
    """The attempt of each job on the queue, which is empty afterwards."""
    attempts = []
    while (answer := http.get(f"/queues/{queue}/next?max=100&timeout=0&ack=auto")).status_code == 200:
        attempts += [job["attempt"] for job in answer.json()["jobs"]]
    assert answer.status_code == 204
    return attempts


def test_a_lease_that_expires_unread_ends_the_stream(gateway, http, queue):
    """The jobs that the client has not got are back at once, and have used no attempt."""
    put_large(http, queue, MORE_THAN_FITS)
    put(http, queue, "last")
    stored = MORE_THAN_FITS + 1
    others = leases_open(http)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=100&lease_seconds=1", rcvbuf=4096) as stream:
        until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] > 0)
        until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
        until(lambda: leases_open(http) <= others)  # the worker of the stream knows it, too
        assert http.get(f"/queues/{queue}").json()["items"] == stored
        stream.next("open")
        seen = 0
        while (line := stream.line())["type"] == "job":
            seen += 1
        assert (line["type"], line["reason"], line["retryable"]) == ("end", "lease-unread", True)
        assert seen < stored
    attempts = attempts_of_all(http, queue)
    assert len(attempts) == stored
    assert attempts.count(1) >= stored - seen
    assert max(attempts) <= 2


def test_peek_shows_the_attempt_of_the_next_delivery(gateway, http, queue):
    """The job has come back to the head, so its bytes are the same, and each stream that was closed is an attempt."""
    put(http, queue, 1)
    for attempt in (1, 2, 3):
        assert http.get(f"/queues/{queue}/peek").json()["attempt"] == attempt
        with StreamReader(gateway, f"/queues/{queue}/stream") as stream:
            stream.next("open")
            assert stream.next()["attempt"] == attempt
        until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
    assert http.get(f"/queues/{queue}/peek").json()["attempt"] == 4
    assert take(http, queue) == (1, 4)


def test_a_client_that_settles_nothing_is_ended(gateway, http, queue):
    """After three leases in a row that expired, so that it does not use up the attempts of every job."""
    put(http, queue, 1)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=1&lease_seconds=1") as stream:
        stream.next("open")
        jobs = stream.jobs(3)
        assert [job["attempt"] for job in jobs] == [1, 2, 3]
        assert stream.next("end")["reason"] == "leases-unsettled"
    assert take(http, queue) == (1, 4)


def test_a_stream_that_ends_unsettled_sends_no_other_job(gateway, http, queue):
    """Also if it waits for more while its lease expires: the job that is back in that moment stays on the queue."""
    put(http, queue, 1)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=2&lease_seconds=1") as stream:
        stream.next("open")
        assert [job["attempt"] for job in stream.jobs(3)] == [1, 2, 3]
        assert stream.next("end")["reason"] == "leases-unsettled"
    assert take(http, queue) == (1, 4)


def test_memory_is_bounded_while_a_client_does_not_read(tmp_path):
    """Of a backlog of 8 MB, the gateway holds no more than the window's bytes and one job.

    KESTREL_GATEWAY_TEST_STOPPED_S sets for how many seconds the client stops.
    """
    flags = ("--stream-window-bytes", "1000000", "--tcp-user-timeout", "600")
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        put(http, "q", *[LARGE] * 40)  # one by one: the peak of before would be that of one large request
        before = peak_bytes(gateway)
        with StreamReader(gateway, "/queues/q/stream?window=1000&lease_seconds=600", rcvbuf=4096):
            until(lambda: http.get("/queues/q").json()["open_reads"] == 5)
            until_s = time.monotonic() + STOPPED_S
            while True:
                assert {http.get("/queues/q").json()["open_reads"] for _ in range(20)} == {5}
                if time.monotonic() >= until_s:
                    break
        grown = peak_bytes(gateway) - before
        print(f"stopped for {STOPPED_S:g} s: the peak grew by {grown >> 10} KiB")
        assert grown < 6 << 20
        until(lambda: http.get("/queues/q").json()["open_reads"] == 0)
        assert http.get("/queues/q").json()["items"] == 40


def test_a_job_that_was_not_sent_uses_no_attempt(gateway, http, queue):
    """The client leaves while the last job of its stream waits for it to read."""
    put_large(http, queue, MORE_THAN_FITS)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=100", rcvbuf=4096):
        held = -1
        while (now := http.get(f"/queues/{queue}").json()["open_reads"]) != held or not held:
            held = now
    until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
    attempts = attempts_of_all(http, queue)
    assert len(attempts) == MORE_THAN_FITS
    assert 1 <= attempts.count(2) < held


def test_a_reader_may_stop_for_longer_than_other_clients(impatient):
    """--body-timeout does not end a stream, and a job that stays set aside after its nack leaves the window."""
    with impatient.client() as http:
        for _ in range(MORE_THAN_FITS):
            assert http.post("/queues/raw/jobs", content=LARGE).status_code == 201
        with StreamReader(impatient, "/queues/raw/stream?window=100", rcvbuf=4096) as stream:
            until(lambda: http.get("/queues/raw").json()["open_reads"] > 0)
            time.sleep(1)  # longer than --body-timeout
            stream.next("open")
            assert stream.jobs(MORE_THAN_FITS)
        until(lambda: http.get("/queues/raw").json()["open_reads"] == 0)
        with StreamReader(impatient, "/queues/raw/stream?window=1") as stream:
            stream.next("open")
            assert http.post(stream.next()["lease"]["url"] + "/nack", json={"delay": 60}).status_code == 200
            assert stream.next()
