"""The example clients in six languages against a live gateway: what each does when all is well, and when it ends."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.api.keyring import Keyring
from tests.api.relay import Relay
from tests.clients.conftest import Run
from tests.clients.languages import Language
from tests.clients.looking import await_figures, lines
from tests.lab.gateway import Running, running
from tests.lab.ports import free_port

JOBS = [
    {"to": "ada@example.org"},
    {"to": "grüße@example.org", "subject": 'Ω 日本 \U0001f426 "quoted" \\ /'},
    {"to": "b", "nested": {"list": [1, -2, 0.5, True, False, None, ["x"]], "text": "a\tb"}},
    {"to": "c", "size": "x" * 20_000},
]
# Ends within a second or two; the rest is for a machine that is busy.
AT_ONCE_S = 4.0


def test_jobs_pass_unchanged(language: Language, run: Run, gateway: Running, http: httpx.Client, queue: str) -> None:
    """What the producer reads is what the consumer's work gets; SIGTERM ends a consumer that waits at once, with 0."""
    producer = run(language, "producer", gateway.url, queue)
    producer.feed(*lines(*JOBS))
    assert producer.end() == 0, producer
    assert len(set(producer.output)) == len(JOBS)
    assert http.get(f"/queues/{queue}").json()["items"] == len(JOBS)

    consumer = run(language, "consumer", gateway.url, queue)
    assert [json.loads(line) for line in consumer.await_output(len(JOBS))] == JOBS
    await_figures(http, queue, items=0, open_reads=0)
    code, took_s = consumer.terminate_and_end()
    assert code == 0, consumer
    assert took_s < AT_ONCE_S
    assert all(line.endswith(": attempt 1") for line in consumer.errors), consumer
    assert len(consumer.output) == len(JOBS)


def test_sigterm_finishes_the_job_in_hand(
    language: Language, run: Run, gateway: Running, http: httpx.Client, queue: str
) -> None:
    """SIGTERM while a job is worked on: it is acked, no other is taken, and the exit code is 0."""
    slow = {"to": "ada@example.org", "seconds": 1}
    for job in (slow, {"to": "never"}):
        assert http.post(f"/queues/{queue}/jobs", json=job).status_code == 201
    consumer = run(language, "consumer", gateway.url, queue)
    consumer.await_error("attempt 1")
    assert consumer.terminate_and_end()[0] == 0, consumer
    assert len(consumer.errors) == 1, consumer
    assert [json.loads(line) for line in consumer.output] == [slow]
    await_figures(http, queue, items=1, open_reads=0)
    assert http.get(f"/queues/{queue}/peek").json()["data"] == {"to": "never"}


def test_sigterm_between_two_tries_ends_it_at_once(language: Language, run: Run, queue: str) -> None:
    """A consumer that finds no gateway tries on; SIGTERM ends it at once, with 0."""
    consumer = run(language, "consumer", f"http://127.0.0.1:{free_port()}", queue)
    consumer.await_error("no-answer")
    code, took_s = consumer.terminate_and_end()
    assert code == 0, consumer
    assert took_s < AT_ONCE_S


def test_a_wrong_key_ends_it(language: Language, run: Run, keyed: tuple[Running, Keyring], queue: str) -> None:
    """Where the key is wrong, or may not do it, a clear message and exit code 1; no further try."""
    gateway, keyring = keyed
    for which, key, code in (
        ("producer", "not-a-key", "unauthenticated"),
        ("consumer", "not-a-key", "unauthenticated"),
        ("consumer", keyring.secrets["producer"], "forbidden-scope"),
    ):
        program = run(language, which, gateway.url, queue, GATEWAY_KEY=key)
        if which == "producer":  # a consumer reads no input, and may have ended
            program.feed('{"to": "ada@example.org"}')
        assert program.end() == 1, program
        assert len(program.errors) == 1, program
        assert code in program.errors[0]
        assert program.output == []


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Keyring]]:
    """A gateway that asks for keys. `producer` may only produce; `slow` is let in once a second."""
    folder = tmp_path_factory.mktemp("keyed")
    keyring = Keyring(folder / "keys.toml")
    keyring.add("producer", scopes="produce")
    keyring.add("slow", scopes="produce", rate=1)
    keyring.add("admin", scopes="admin")
    with running(folder / "data", "--keys", str(keyring.path)) as gateway:
        yield gateway, keyring


def test_what_has_lost_its_answer_is_sent_again(
    language: Language, run: Run, gateway: Running, http: httpx.Client, queue: str
) -> None:
    """An enqueue whose answer is lost is sent again and stores once; an ack whose answer is lost is sent again, too."""
    with Relay(gateway.port, answer=b"201 Created") as relay:
        relay.lose = 1
        producer = run(language, "producer", f"http://{relay.address}", queue)
        producer.feed(*lines({"to": "a"}, {"to": "b"}))
        assert producer.end() == 0, producer
        assert relay.lose == 0
    assert len(producer.output) == 2
    assert http.get(f"/queues/{queue}").json()["total_items"] == 2

    with Relay(gateway.port, answer=b"204 No Content") as relay:
        relay.lose = 1
        consumer = run(language, "consumer", f"http://{relay.address}", queue)
        assert [json.loads(line)["to"] for line in consumer.await_output(2)] == ["a", "b"]
        await_figures(http, queue, items=0, open_reads=0)
        assert relay.lose == 0
        assert consumer.terminate_and_end()[0] == 0, consumer
    assert len(consumer.output) == 2
    assert http.get(f"/queues/{queue}").json()["total_items"] == 2


def test_a_rate_limit_is_honoured(language: Language, run: Run, keyed: tuple[Running, Keyring], queue: str) -> None:
    """A 429 is tried again, after no less than its Retry-After says."""
    gateway, keyring = keyed
    producer = run(language, "producer", gateway.url, queue, GATEWAY_KEY=keyring.secrets["slow"])
    producer.feed(*lines({"to": "a"}, {"to": "b"}))
    assert producer.end() == 0, producer
    assert len(producer.output) == 2
    assert producer.errors, producer
    for line in producer.errors:
        assert line.startswith("rate-limited: ") or " rate-limited: " in line
        assert float(line.split("next try in ")[1].split()[0]) >= 1


def test_errors_of_a_proxy_are_told_apart(language: Language, run: Run, queue: str, proxy: str) -> None:
    """An error that is no problem document is a proxy's: a 502 is tried again, a 404 ends the program."""
    producer = run(language, "producer", f"{proxy}/flaky", queue)
    producer.feed(*lines({"to": "a"}))
    assert producer.end() == 0, producer
    assert producer.output == ["17"]
    assert "http-502" in producer.errors[0]
    consumer = run(language, "consumer", f"{proxy}/nowhere", queue)
    assert consumer.end() == 1, consumer
    assert "http-404" in consumer.errors[0]


@pytest.fixture
def proxy() -> Iterator[str]:
    """A server whose /flaky answers its first request with 502 and HTML, then as a gateway; all else is 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        seen = 0

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.path.startswith("/flaky/"):
                self.answer(404, "text/html", b"<h1>Not Found</h1>")
            elif type(self).seen == 0:
                type(self).seen += 1
                self.answer(502, "text/html", b"<h1>Bad Gateway</h1>")
            else:
                self.answer(201, "application/json", b'{"id":"17","queue":"q"}')

        def do_GET(self) -> None:
            self.do_POST()

        def answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
