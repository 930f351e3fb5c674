"""The example clients in six languages with settings, lines and jobs that they cannot use."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.clients.conftest import Run
from tests.clients.languages import Language
from tests.clients.looking import await_figures
from tests.lab.gateway import Running, running

URLS = (
    "127.0.0.1:8080",
    "ftp://127.0.0.1",
    "http://",
    "http://a b/",
    "http://127.0.0.1:8o",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:8080/?x=",
)
# As producers send them: the content type and the bytes. None is a JSON object with the member "to".
NO_MAILS = (
    ("application/json", b"null"),
    ("application/json", b"17"),
    ("application/json", b'"to"'),
    ("application/json", b'["to"]'),
    ("text/plain", b"to whom it may concern"),
    ("image/png", b"\x89PNG\xff"),
)


def test_a_bad_setting_ends_it(language: Language, run: Run, gateway: Running, queue: str) -> None:
    """A URL, a key or a number that cannot be used: one line that names it, and exit code 1; no request, no retry."""
    programs = [("GATEWAY_URL", url, run(language, "producer", url, queue)) for url in URLS]
    programs += [("GATEWAY_URL", URLS[0], run(language, "consumer", URLS[0], queue))]
    programs += [
        (name, value, run(language, "consumer", gateway.url, queue, **{name: value}))
        for name, value in (
            ("LEASE_SECONDS", "abc"),
            ("LEASE_SECONDS", "0"),
            ("LEASE_SECONDS", "1.5"),
            ("GATEWAY_KEY", "two\nlines"),
            ("GATEWAY_KEY", "schlüssel"),
        )
    ]
    for name, value, program in programs:
        assert program.end() == 1, program
        assert len(program.errors) == 1, program
        assert name in program.errors[0], program
        # A key is a secret.
        assert (value in program.errors[0]) == (name != "GATEWAY_KEY"), program


def test_the_queue_stays_one_part_of_the_path(
    language: Language, run: Run, gateway: Running, http: httpx.Client, queue: str
) -> None:
    """A name that no queue can have is the gateway's to refuse: no other queue is used in its place."""
    http.post(f"/queues/{queue}/jobs", json={"to": "ada@example.org"}).raise_for_status()
    names = ("a b", f"{queue}?timeout=0&z=", f"{queue}#", f"x/../{queue}")
    for which, name in itertools.product(("producer", "consumer"), names):
        program = run(language, which, gateway.url, name)
        if which == "producer":
            program.feed('{"to": "ada@example.org"}')
        assert program.end() == 1, program
        assert len(program.errors) == 1, program
        assert "invalid-name" in program.errors[0], program
        assert program.output == []
    await_figures(http, queue, items=1, open_reads=0, total_items=1)


def test_a_slash_at_the_end_of_the_url(language: Language, run: Run, gateway: Running, queue: str) -> None:
    """It changes nothing."""
    producer = run(language, "producer", f"{gateway.url}/", queue)
    producer.feed('{"to": "ada@example.org"}')
    assert producer.end() == 0, producer


def test_a_bad_line_is_named(language: Language, run: Run, gateway: Running, http: httpx.Client, queue: str) -> None:
    """The producer ends at the first line that is not JSON, and says which it is."""
    producer = run(language, "producer", gateway.url, queue)
    producer.feed('{"to": "a"}', '{"to": ', '{"to": "c"}')
    assert producer.end() == 1, producer
    assert len(producer.output) == 1
    assert len(producer.errors) == 1, producer
    assert "line 2 is not enqueued: invalid-body: " in producer.errors[0]
    assert http.get(f"/queues/{queue}").json()["items"] == 1


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway that tries each job once."""
    folder = tmp_path_factory.mktemp("impatient")
    (folder / "queues.toml").write_text('[queues."*"]\nmax_attempts = 1\n')
    with running(folder / "data", "--queues", str(folder / "queues.toml")) as gateway:
        yield gateway


def test_jobs_of_other_types_fail_alone(language: Language, run: Run, impatient: Running, queue: str) -> None:
    """A job that is text, bytes, or JSON of another shape fails with a reason; the consumer goes on with the next."""
    with impatient.client() as http:
        for content_type, body in NO_MAILS:
            sent = http.post(f"/queues/{queue}/jobs", content=body, headers={"Content-Type": content_type})
            assert sent.status_code == 201
        for job in ({"to": "ada@example.org", "seconds": "soon"}, {"to": "last"}):
            assert http.post(f"/queues/{queue}/jobs", json=job).status_code == 201
        # An empty variable counts as absent.
        consumer = run(language, "consumer", impatient.url, queue, LEASE_SECONDS="", GATEWAY_KEY="")
        consumer.await_output(1)
        if '"last"' not in consumer.output[0]:
            consumer.await_output(2)  # the language reads "soon" as 0 seconds
        await_figures(http, queue, items=0, open_reads=0)
        assert consumer.terminate_and_end()[0] == 0, consumer
    assert json.loads(consumer.output[-1]) == {"to": "last"}
    failed = [line for line in consumer.errors if not line.endswith(": attempt 1")]
    assert all(" failed: " in line for line in failed), consumer
    assert sum("the mail has no address" in line for line in failed) == len(NO_MAILS), consumer
