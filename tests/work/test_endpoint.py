"""`work --to`: each job is posted to an endpoint, and its answer says what becomes of the job."""

from __future__ import annotations

import base64
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.work import signature
from tests.lab.endpoint import Endpoint, EndpointReply, Posted
from tests.lab.ports import free_port
from tests.lab.waiting import undisturbed, until
from tests.work.conftest import Put, Start

AT_ONCE = ("--retry-delay", "0", "--wait", "2")
KEY = bytes(range(32))


@contextlib.contextmanager
def endpoint(**replies: EndpointReply) -> Iterator[Endpoint]:
    """Answers a job whose text is a name with that reply, and with 204 otherwise."""
    with Endpoint(lambda posted: replies.get(posted.body.decode(), EndpointReply())) as started:
        yield started


def test_the_answer_decides(start: Start, put: Put, queue: str, rest, dead):
    """2xx acks; 410 and --reject-on make dead letters; all else comes again, with the answer as its reason."""
    replies = {
        "created": EndpointReply(201),
        "gone": EndpointReply(410, b"no such user"),
        "invalid": EndpointReply(422, b"no\n address"),
        "failed": EndpointReply(500, b"x" * 100_000),
        "unknown": EndpointReply(404),
        "moved": EndpointReply(302, headers={"Location": "http://127.0.0.1:1/elsewhere"}),
        "same": EndpointReply(304),
    }
    put(*replies)
    with endpoint(**replies) as web:
        worker = start(queue, *AT_ONCE, "--max-jobs", "7", "--reject-on", "400,422", "--to", web.url)
        assert worker.wait() == 0
    left = rest()
    assert {name: attempt for name, (attempt, _) in left.items()} == {"failed": 2, "unknown": 2, "moved": 2, "same": 2}
    assert left["failed"][1].startswith("status 500: …xxx")
    assert left["moved"][1] == "status 302: the redirect to http://127.0.0.1:1/elsewhere is not followed"
    assert left["same"][1] == "status 304: answer with 2xx, 4xx or 5xx"
    assert dead() == {"gone": "status 410: no such user", "invalid": "status 422: no address"}
    assert len(web.posted) == 7


def test_the_request_has_the_job(start: Start, http: httpx.Client, queue: str, tmp_path: Path):
    """Its bytes and type, its attributes, the lease, and a signature that verifies."""
    (tmp_path / "secrets").write_text(f"whsec_{base64.b64encode(KEY).decode()}\n")
    body = b'{"big": 12345678901234567890, "x": 1.10}'
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "order.17",
        "ce-source": "/shop",
        "ce-type": "org.example.order",
        "ce-place": "K%C3%B6ln",
        "traceparent": trace,
    }
    http.post(f"/queues/{queue}/jobs", content=body, headers=headers).raise_for_status()
    with endpoint() as web:
        secrets = ("--secret-file", str(tmp_path / "secrets"))
        assert start(queue, "--max-jobs", "1", *secrets, "--to", web.url + "?a=1").wait() == 0
    (posted,) = web.posted
    assert (posted.path, posted.body) == ("/hook?a=1", body)
    expected = {"ce-id": "order.17", "ce-place": "K%C3%B6ln", "ce-attempt": "1", "traceparent": trace}
    expected |= {"content-type": "application/json", "kestrel-queue": queue}
    assert {name: posted.headers.get(name) for name in expected} == expected
    assert posted.headers["lease-url"] == f"{str(http.base_url).rstrip('/')}/leases/{posted.headers['lease-id']}"
    identity = posted.headers["webhook-id"]
    assert "." not in identity
    seconds = int(posted.headers["webhook-timestamp"])
    assert abs(seconds - time.time()) < 60
    assert posted.headers["webhook-signature"] == signature.headers(identity, seconds, body, [KEY])["webhook-signature"]


def test_202_leaves_the_lease_to_the_endpoint(start: Start, put: Put, queue: str, http: httpx.Client):
    """The worker goes on with the next job, and the endpoint settles the lease by its URL when it wants to."""
    put("later", "now")
    with endpoint(later=EndpointReply(202)) as web:
        assert start(queue, "--max-jobs", "2", "--to", web.url).wait() == 0
    assert http.get(f"/queues/{queue}").json()["open_reads"] == 1
    httpx.post(web.posted[0].headers["lease-url"] + "/ack").raise_for_status()
    figures = http.get(f"/queues/{queue}").json()
    assert (figures["items"], figures["open_reads"]) == (0, 0)


def test_retry_after_is_the_delay(start: Start, put: Put, queue: str, http: httpx.Client):
    """503 with Retry-After: the job comes back after that time, not before."""
    put("busy")
    answered_s: list[float] = []

    def reply(_: Posted) -> EndpointReply:
        answered_s.append(time.monotonic())
        return EndpointReply(503, headers={"Retry-After": "2"})

    with Endpoint(reply) as web:
        worker = start(queue, "--wait", "2", "--max-jobs", "1", "--to", web.url)
        assert worker.wait() == 0
        assert "next attempt in 2.0 s" in worker.text()
    assert http.get(f"/queues/{queue}/next?timeout=10").json()["attempt"] == 2
    assert time.monotonic() - answered_s[0] >= 2


def test_an_endpoint_that_refuses_uses_up_no_attempts(start: Start, put: Put, queue: str, rest):
    """Nobody listens: nothing is taken, the pauses grow, and the jobs are done once somebody listens."""
    put("one", "two", "three")
    port = free_port()
    worker = start(queue, *AT_ONCE, "--concurrency", "2", "--to", f"http://127.0.0.1:{port}/hook")
    worker.wait_for_log("Connect call failed|refused")
    began_s = worker.cpu_s()
    time.sleep(2)
    assert worker.cpu_s() - began_s < 0.3
    assert len(worker.text().splitlines()) < 12
    with Endpoint(lambda _: EndpointReply(), port) as web:
        until(lambda: len(web.posted) == 3)
        assert [each.headers["ce-attempt"] for each in web.posted] == ["1", "1", "1"]
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert rest() == {}


@pytest.mark.parametrize("status", [503, *(pytest.param(each, marks=pytest.mark.slow) for each in (429, 502, 504))])
def test_an_endpoint_that_is_unavailable_is_asked_seldom(
    start: Start, put: Put, queue: str, http: httpx.Client, status: int
):
    """It gets few requests, however many jobs there are."""
    put(*map(str, range(20)))
    with Endpoint(lambda _: EndpointReply(status)) as web:
        worker = start(queue, *AT_ONCE, "--concurrency", "2", "--to", web.url)
        until(lambda: bool(web.posted))
        time.sleep(3)
        assert len(web.posted) < 14
        web.reply = lambda _: EndpointReply()
        until(lambda: http.get(f"/queues/{queue}").json()["items"] == 0)
        assert worker.process.poll() is None


@undisturbed(0.2)
def test_an_endpoint_that_is_slow(start: Start, put: Put, queue: str, rest, http: httpx.Client):
    """The lease is extended meanwhile; after --timeout the job comes again."""
    http.delete(f"/queues/{queue}")  # of an attempt before
    ids = put("slow", "hangs")
    release = threading.Event()

    def reply(posted: Posted) -> EndpointReply:
        if posted.body == b"slow":
            time.sleep(2.5)
        else:
            release.wait(20)
        return EndpointReply()

    with Endpoint(reply) as web:
        both = ("--concurrency", "2", "--max-jobs", "2")
        worker = start(queue, *AT_ONCE, "--lease", "1", "--timeout", "4", "--debug", *both, "--to", web.url)
        assert worker.wait() == 0
        release.set()
    assert min(worker.text().count(f"{each}: lease extended") for each in ids) >= 3
    assert rest() == {"hangs": (2, f"{web.url}: no answer within 4 s (--timeout)")}


def test_sigquit_gives_the_job_back_while_the_endpoint_works(start: Start, put: Put, queue: str, rest):
    """The request ends, and the job is takeable."""
    put("job")
    release = threading.Event()

    def reply(_: Posted) -> EndpointReply:
        release.wait(20)
        return EndpointReply()

    with Endpoint(reply) as web:
        worker = start(queue, "--to", web.url)
        until(lambda: bool(web.posted))
        worker.send(signal.SIGQUIT)
        assert worker.wait() == 0
        release.set()
    assert list(rest()) == ["job"]


def test_a_password_in_the_url_is_used_and_not_logged(start: Start, put: Put, queue: str):
    """It becomes an Authorization header, and no line of the log has it."""
    put("job")
    with endpoint(job=EndpointReply(500)) as web:
        url = web.url.replace("http://", "http://user:pa55word@")
        worker = start(queue, "--debug", "--max-jobs", "1", "--to", url)
        assert worker.wait() == 0
    expected = base64.b64encode(b"user:pa55word").decode()
    assert web.posted[0].headers["authorization"] == f"Basic {expected}"
    assert "pa55word" not in worker.text()


def _answering(status: int) -> Endpoint:
    return Endpoint(lambda _: EndpointReply(status))


def test_no_answer_of_a_gateway_makes_the_worker_run_hot(start: Start, queue: str):
    """Whatever answers in its place, and at once: few polls, or an exit that says why."""
    with contextlib.ExitStack() as stack:
        webs = {status: stack.enter_context(_answering(status)) for status in (204, 200, 404, 500)}
        workers = {
            status: start(queue, "--concurrency", "4", "--exec", "true", url=f"http://127.0.0.1:{web.port}")
            for status, web in webs.items()
        }
        until(lambda: all(web.posted for web in webs.values()))
        time.sleep(1.5)
        assert all(len(web.posted) <= 4 * 6 for web in webs.values())
        for status in (200, 404):
            assert workers[status].wait() == 4


def test_an_empty_file_of_secrets_is_refused(start: Start, queue: str, tmp_path: Path) -> None:
    """Otherwise requests would go out unsigned."""
    (tmp_path / "none").touch()
    assert start(queue, "--secret-file", str(tmp_path / "none"), "--to", "http://127.0.0.1:1/").wait() == 2
