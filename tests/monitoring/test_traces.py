"""Traces: what a gateway of two workers sends to an OTLP/HTTP collector on loopback."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas

from gateway.traces import conventions
from tests.api.keyring import Keyring
from tests.lab.collector import Collector, SpanSeen
from tests.lab.commands import run_process
from tests.lab.examples import examples
from tests.lab.gateway import ROOT, Running, running
from tests.lab.ports import free_port
from tests.lab.waiting import until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "shop=7"}
SECRET = "nobody-may-see-this"
FLAGS = ("--workers", "2", "--traces", "otlp")
LINES = {"content-type": "application/x-ndjson"}
NEXT = "next?timeout=20"


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=queues")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # ms, so that the tests need not wait for seconds
        with running(tmp_path_factory.mktemp("traced") / "data", *FLAGS) as gateway:
            yield gateway


@pytest.fixture
def http(traced: Running) -> Iterator[httpx.Client]:
    """Each request on a connection of its own, so that both workers get some."""
    with traced.client(headers={"connection": "close"}) as client:
        yield client


def one(spans: list[SpanSeen], name: str) -> SpanSeen:
    found = [each for each in spans if each.name == name]
    assert len(found) == 1, [each.name for each in spans]
    return found[0]


def context_of(traceparent: str) -> tuple[str, str]:
    _, trace, span, _ = traceparent.split("-")
    return trace, span


def test_a_job_has_three_spans(collector: Collector, http: httpx.Client) -> None:
    """The enqueue is a child of the caller, and its context is that of the job. The delivery is linked to it, whichever
    worker delivers, and the settlement is a child of the delivery."""
    stored = http.post("/queues/three/jobs", json={"to": SECRET}, headers=CALLER).json()
    taken = http.get(f"/queues/three/{NEXT}")
    lease = taken.json()["lease"]["id"]
    assert http.post(f"/leases/{lease}/ack").status_code == 204
    enqueue, delivery, ack = collector.of("three", 3)
    assert (enqueue.trace, enqueue.parent, enqueue.kind, enqueue.name) == (TRACE, SPAN, "PRODUCER", "enqueue three")
    assert context_of(taken.headers["traceparent"]) == (TRACE, enqueue.id)
    assert taken.headers["tracestate"] == "shop=7"
    assert (delivery.kind, delivery.name, delivery.parent) == ("CLIENT", "next three", "")
    assert delivery.links == [(TRACE, enqueue.id, {"messaging.message.id": stored["id"]})]
    assert (ack.kind, ack.name, ack.trace, ack.parent) == ("CLIENT", "ack three", delivery.trace, delivery.id)
    assert ack.links == delivery.links
    common = {
        "messaging.system": "kestrel",
        "messaging.destination.name": "three",
        "messaging.message.id": stored["id"],
    }
    for span, name, kind in ((enqueue, "enqueue", "send"), (delivery, "next", "receive"), (ack, "ack", "settle")):
        assert span.attributes.items() >= common.items()
        assert span.attributes["messaging.operation.name"] == name
        assert span.attributes["messaging.operation.type"] == kind
        assert not span.failed
        assert "error.type" not in span.attributes
        assert "messaging.batch.message_count" not in span.attributes
        assert span.begin_ns < span.end_ns
    assert enqueue.attributes["messaging.message.body.size"] == len(b'{"to":"%s"}' % SECRET.encode())
    assert delivery.attributes["messaging.kestrel.message.attempt"] == 1
    assert enqueue.attributes["messaging.kestrel.request.id"]
    assert enqueue.end_ns < delivery.end_ns <= ack.begin_ns
    for hidden in (SECRET, lease, lease[16:]):
        assert hidden.encode() not in collector.whole


def test_both_workers_send_spans(collector: Collector, http: httpx.Client) -> None:
    """Each with an id of its own; OTEL_ variables name the service, its attributes and the headers."""
    for _ in range(200):
        http.post("/queues/both/jobs", json=1)
        if len({each.resource["service.instance.id"] for each in collector.spans}) == 2:
            break
    found = collector.wait(lambda spans: len({each.resource["service.instance.id"] for each in spans}) == 2)
    assert {each.resource["service.name"] for each in found} == {"kestrel-gateway"}
    assert {each.resource["deployment.environment.name"] for each in found} == {"test"}
    assert {each.schema for each in found} == {conventions.SCHEMA_URL}
    assert collector.headers["x-team"] == "queues"


def test_a_settlement_through_the_other_worker(collector: Collector, http: httpx.Client) -> None:
    """Its span is a child of the delivery, too, whichever worker the request reaches."""
    count = examples(12, fewest=6)
    http.post("/queues/across/jobs", content=b"1\n" * count, headers=LINES)
    for _ in range(count):
        lease = http.get(f"/queues/across/{NEXT}").json()["lease"]["id"]
        assert http.post(f"/leases/{lease}/ack").status_code == 204
    spans = collector.of("across", 1 + 2 * count)
    deliveries = {each.id: each for each in spans if each.name == "next across"}
    acks = [each for each in spans if each.name == "ack across"]
    assert {each.parent for each in acks} == set(deliveries)
    for ack in acks:
        assert ack.resource == deliveries[ack.parent].resource
        assert ack.links == deliveries[ack.parent].links


def test_without_a_caller_a_trace_begins(collector: Collector, http: httpx.Client) -> None:
    """At the enqueue, and at the delivery; a poll's own context is the parent of its delivery."""
    http.post("/queues/alone/jobs", json=1)
    taken = http.get(f"/queues/alone/{NEXT}", headers=CALLER)
    http.post(f"/leases/{taken.json()['lease']['id']}/nack", json={"reason": SECRET})
    http.get(f"/queues/alone/{NEXT}&ack=auto")
    spans = collector.of("alone", 5)
    enqueue, nack = one(spans, "enqueue alone"), one(spans, "nack alone")
    first, second = [each for each in spans if each.name == "next alone"]
    assert (enqueue.parent, context_of(taken.headers["traceparent"])) == ("", (enqueue.trace, enqueue.id))
    assert (first.trace, first.parent) == (TRACE, SPAN)
    assert (second.parent, second.attributes["messaging.kestrel.message.attempt"]) == ("", 2)
    assert len({enqueue.trace, first.trace, second.trace}) == 3
    assert [each[:2] for each in first.links + second.links] == [(enqueue.trace, enqueue.id)] * 2
    assert (nack.parent, nack.attributes["messaging.kestrel.message.place"]) == (first.id, "tail")
    assert one(spans, "ack alone").parent == second.id  # acked before it was delivered
    assert SECRET.encode() not in collector.whole


def test_a_batch_has_one_span_each_way(collector: Collector, http: httpx.Client) -> None:
    """Enqueue and delivery with the number of jobs and a link to each; settlements by how the jobs ended."""
    own = f"00-{TRACE}-{'b' * 16}-01"
    events: list[dict[str, Any]] = [
        {"specversion": "1.0", "id": f"e{place}", "source": "/shop", "type": "t", "data": place} for place in range(5)
    ]
    events[3]["traceparent"] = own
    kind = {"content-type": "application/cloudevents-batch+json"}
    http.post("/queues/many/jobs", headers=CALLER | kind, content=orjson.dumps(events)).raise_for_status()
    taken = http.get(f"/queues/many/{NEXT}&max=10").json()
    lease = taken["lease"]["id"]
    settled = {"nacks": [{"job": 1}], "rejects": [{"job": 2}], "rest": "ack"}
    assert http.post(f"/leases/{lease}/settle", json=settled).status_code == 200
    spans = collector.of("many", 5)
    enqueue, delivery = one(spans, "enqueue many"), one(spans, "next many")
    assert enqueue.attributes["messaging.batch.message_count"] == 5
    assert delivery.attributes["messaging.batch.message_count"] == 5
    assert "messaging.message.id" not in delivery.attributes | enqueue.attributes
    expected = [(TRACE, "b" * 16 if place == 3 else enqueue.id, f"e{place}") for place in range(5)]
    assert [(trace, span, found["messaging.message.id"]) for trace, span, found in delivery.links] == expected
    for name, count, place in (("ack", 3, None), ("nack", 1, "tail"), ("reject", 1, "dead")):
        span = one(spans, f"{name} many")
        assert (span.parent, span.attributes["messaging.batch.message_count"]) == (delivery.id, count)
        assert span.attributes.get("messaging.kestrel.message.place") == place


def test_a_stream_has_a_span_for_what_it_writes(collector: Collector, traced: Running, http: httpx.Client) -> None:
    """With a link to each job; every lease is settled by itself, also if the client leaves."""
    for _ in range(3):
        http.post("/queues/flow/jobs", json=1)
    with traced.client() as client, client.stream("GET", "/queues/flow/stream", headers=CALLER) as stream:
        lines = stream.iter_lines()
        jobs: list[dict[str, Any]] = []
        while len(jobs) < 3:
            line = orjson.loads(next(lines))
            jobs += [line] if line["type"] == "job" else []
        http.post(f"/leases/{jobs[0]['lease']['id']}/ack").raise_for_status()
    spans = collector.wait(lambda spans: sum(each.name in {"ack flow", "settle flow"} for each in spans) == 3)
    spans = [each for each in spans if each.attributes["messaging.destination.name"] == "flow"]
    deliveries = [each for each in spans if each.name == "next flow"]
    assert {(each.trace, each.parent) for each in deliveries} == {(TRACE, SPAN)}
    enqueues = {each.id for each in spans if each.name == "enqueue flow"}
    assert {span for each in deliveries for _, span, _ in each.links} == enqueues
    assert one(spans, "ack flow").attributes["messaging.message.id"] == jobs[0]["id"]
    left = [each for each in spans if each.name == "settle flow"]
    assert {each.attributes["messaging.message.id"] for each in left} == {each["id"] for each in jobs[1:]}
    assert {each.attributes["error.type"] for each in left} == {"client_gone"}


def test_a_repeated_request_has_no_span(collector: Collector, http: httpx.Client) -> None:
    """It stores nothing. The job keeps the trace of the first request."""
    for _ in range(2):
        answer = http.post("/queues/once/jobs", json=1, headers=CALLER | {"idempotency-key": "k1"})
        assert answer.status_code == 201
    assert answer.headers["idempotency-replayed"] == "true"
    taken = http.get(f"/queues/once/{NEXT}&ack=auto")
    spans = collector.of("once", 3)
    assert context_of(taken.headers["traceparent"])[1] == one(spans, "enqueue once").id


def test_failures_have_their_code(collector: Collector, http: httpx.Client) -> None:
    """A refused enqueue, and one of which only some jobs are stored. A poll without a job has no span."""
    assert http.post("/queues/bad/jobs", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert http.post("/queues/bad/jobs?ttl=5&delay=9", json=1).status_code == 400
    assert http.post("/queues/bad/jobs", content=b"1\n{\n", headers=LINES).status_code == 207
    assert http.get("/queues/bad/next?timeout=0").status_code == 200
    assert http.get("/queues/bad/next?timeout=0").status_code == 204
    spans = [each for each in collector.of("bad", 4) if each.name == "enqueue bad"]
    spans.sort(key=lambda each: each.begin_ns)  # the end of one may come after its answer, and after that of the next
    assert [each.attributes["error.type"] for each in spans] == ["invalid-body", "delay-beyond-expiry", "partly-stored"]
    assert [each.failed for each in spans] == [True] * 3
    assert spans[-1].attributes["messaging.batch.message_count"] == 2


def test_leases_that_end_without_their_consumer(collector: Collector, http: httpx.Client) -> None:
    """An expiry and the end of a deleted queue are errors; the last attempt that expires is a dead letter."""
    http.post("/queues/late/jobs", json=1)
    http.get(f"/queues/late/{NEXT}&lease_seconds=1")
    expired = one(collector.of("late", 3), "expire late")
    assert (expired.failed, expired.attributes["error.type"]) == (True, "expired")
    assert expired.attributes["messaging.kestrel.message.place"] == "tail"
    http.post("/queues/gone/jobs", json=1)
    http.get(f"/queues/gone/{NEXT}")
    http.delete("/queues/gone").raise_for_status()
    deleted = one(collector.of("gone", 3), "settle gone")
    assert (deleted.failed, deleted.attributes["error.type"]) == (True, "deleted")


def test_a_redrive_is_linked_to_the_enqueues(collector: Collector, http: httpx.Client) -> None:
    """The span names the queue that gets the jobs. One that moves nothing has none; one that fails has its code."""
    for _ in range(3):
        http.post("/queues/revived/jobs", json=1)
        lease = http.get(f"/queues/revived/{NEXT}").raise_for_status().json()["lease"]["id"]
        http.post(f"/leases/{lease}/reject", json={}).raise_for_status()
    letters = http.get("/queues/revived/dead-letters/jobs").json()["letters"]
    http.post(f"/queues/revived/dead-letters/jobs/{letters[0]['letter']}/redrive", headers=CALLER).raise_for_status()
    assert http.post("/queues/revived/redrive", json={"to": "alive"}).json()["redriven"] == 2
    assert http.post("/queues/revived/redrive").json()["redriven"] == 0
    spans = collector.of("revived", 10)
    enqueues = [(each.trace, each.id) for each in spans if each.name == "enqueue revived"]
    single = one(spans, "redrive revived")
    assert (single.kind, single.trace, single.parent) == ("CLIENT", TRACE, SPAN)
    assert single.attributes["messaging.operation.type"] == "send"
    assert single.attributes["messaging.message.id"] == letters[0]["id"]
    assert single.links == [(*enqueues[0], {"messaging.message.id": letters[0]["id"]})]
    (whole,) = collector.of("alive", 1)
    assert (whole.name, whole.attributes["messaging.batch.message_count"]) == ("redrive alive", 2)
    assert [each[:2] for each in whole.links] == enqueues[1:]
    assert not single.failed
    assert not whole.failed
    assert http.post("/queues/never/redrive").status_code == 404
    (failed,) = collector.of("never", 1)
    assert (failed.failed, failed.attributes["error.type"], failed.links) == (True, "queue-not-found", [])


@pytest.fixture(scope="module")
def strict(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker that tries each job once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        folder = tmp_path_factory.mktemp("strict")
        with running(folder / "data", "--traces", "otlp", "--max-attempts", "1") as gateway:
            yield gateway


@pytest.mark.parametrize("how", ["next?timeout=1", "next?timeout=1&max=5"])
def test_a_job_without_attempts_is_a_dead_letter_with_a_span(collector: Collector, strict: Running, how: str) -> None:
    """Instead of a delivery, whether the poll wants one job or a batch. The span is linked to the enqueue."""
    queue = "spent" if "max" not in how else "spent-batch"
    with strict.client() as http:
        job = http.post(f"/queues/{queue}/jobs", json=1, headers=CALLER).json()["id"]
        with strict.client() as client, client.stream("GET", f"/queues/{queue}/stream") as stream:
            next(line for line in stream.iter_lines() if '"job"' in line)
        spans = collector.of(queue, 3)  # the client has left, which ends its lease
        assert http.get(f"/queues/{queue}/{how}").status_code == 204
        spans = collector.of(queue, 4)
        assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 1
    enqueue, dead = one(spans, f"enqueue {queue}"), one(spans, f"dead-letter {queue}")
    assert (dead.kind, dead.parent, dead.attributes["messaging.operation.type"]) == ("CLIENT", "", "settle")
    assert (dead.failed, dead.attributes["error.type"]) == (True, "max-attempts")
    assert dead.attributes["messaging.kestrel.message.attempt"] == 1
    assert dead.attributes["messaging.kestrel.message.place"] == "dead"
    assert dead.links == [(TRACE, enqueue.id, {"messaging.message.id": job})]


def test_a_subscription_names_its_queue(collector: Collector, http: httpx.Client) -> None:
    """Its copies are linked to the one enqueue."""
    http.put("/queues/news/subscriptions/audit").raise_for_status()
    http.post("/queues/news/jobs", json=1)
    for queue in ("news", "news+audit"):
        http.get(f"/queues/{queue.replace('+', '%2B')}/{NEXT}&ack=auto").raise_for_status()
    spans = collector.of("news", 5)
    enqueue = one(spans, "enqueue news")
    deliveries = [each for each in spans if each.name == "next news"]
    assert [each.links[0][1] for each in deliveries] == [enqueue.id] * 2
    found = {each.attributes.get("messaging.destination.subscription.name") for each in deliveries}
    assert found == {None, "audit"}


def test_a_request_that_is_not_sampled_is_not_sent(collector: Collector, http: httpx.Client) -> None:
    """The caller decides for its own trace, and the job says so."""
    http.post("/queues/quiet/jobs", json=1, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    taken = http.get(f"/queues/quiet/{NEXT}", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    http.post(f"/leases/{taken.json()['lease']['id']}/ack")
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", taken.headers["traceparent"])
    http.post("/queues/loud/jobs", json=1)
    collector.of("loud", 1)
    assert collector.of("quiet", 0) == []


def test_log_lines_name_the_trace(collector: Collector, traced: Running, http: httpx.Client) -> None:
    """So that a line leads to its trace."""
    http.post("/queues/logged/jobs", json=1)
    (enqueue,) = collector.of("logged", 1)
    deadline_s = time.monotonic() + 60
    while f"trace={enqueue.trace}" not in traced.log.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collector, Keyring]]:
    """What a gateway has sent that stopped long before its delay of 5 s was over, and the keys of its clients: a job
    with keys of its own, which is under a lease when SIGTERM comes."""
    collector, folder = Collector(), tmp_path_factory.mktemp("stopped")
    keyring = Keyring(folder / "keys.toml")
    keyring.add("web", "acme", "produce consume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        patch.setenv("OTEL_SERVICE_NAME", "jobs")
        flags = ("--traces", "otlp", "--keys", str(keyring.path), "--grace", "1")
        with running(folder / "data", *flags) as gateway, keyring.client(gateway, "web") as http:
            headers = {"idempotency-key": SECRET, "ordering-key": SECRET}
            http.post("/queues/held/jobs", json=SECRET, headers=headers).raise_for_status()
            http.get(f"/queues/held/{NEXT}").raise_for_status()
            assert gateway.stop() == 0
    yield collector, keyring
    collector.close()


def test_a_tenant_is_named_and_no_key(stopped: tuple[Collector, Keyring]) -> None:
    """Neither the secret of the key nor the key of the job's order or of its repetition."""
    collector, keyring = stopped
    for span in collector.of("held", 3):
        assert span.attributes["messaging.kestrel.tenant"] == "acme"
        assert span.resource["service.name"] == "jobs"
    assert SECRET.encode() not in collector.whole
    assert keyring.secrets["web"].encode() not in collector.whole


def test_a_stop_sends_the_ends_of_leases(stopped: tuple[Collector, Keyring]) -> None:
    """SIGTERM: also those that end because of it, within the grace."""
    drained = one(stopped[0].of("held", 3), "settle held")
    assert drained.attributes["error.type"] == "drained"


def warned(gateway: Running) -> bool:
    """Whether spans were dropped, and others not sent."""
    written = gateway.log.read_text()
    return "Queue full" in written and "exporting" in written


def test_an_unreachable_collector_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs go on, a few warnings are logged, and the stop does not wait for it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    began_s = time.monotonic()
    with running(tmp_path / "data", "--traces", "otlp") as gateway, gateway.client() as http:
        for _ in range(50):
            assert http.post("/queues/still/jobs", json=1).status_code == 201
        until(lambda: http.post("/queues/still/jobs", json=1).status_code == 201 and warned(gateway))
        assert gateway.stop() == 0
        warnings = [line for line in gateway.log.read_text().splitlines() if "traces: " in line]
    assert all("WARNING" in line for line in warnings), warnings
    # Of the thread that exports and of the one that drops a line each in ten seconds, and one at the stop.
    assert 2 <= len(warnings) <= 2 * ((time.monotonic() - began_s) // 10 + 2) + 1, warnings
    assert any("last spans are not sent" in line for line in warnings)


def test_without_traces_nothing_is_imported(gateway: Running, tmp_path: Path) -> None:
    """Neither by the supervisor nor by a worker. Jobs carry the caller's own context."""
    modules = "gateway.cli, gateway.process.supervisor, gateway.app, gateway.process.worker, gateway.http.server"
    (tmp_path / "imports.py").write_text(
        f"import sys, {modules}\nprint([each for each in sys.modules if 'opentelemetry' in each])"
    )
    told = run_process([sys.executable, "-m", "imports"], env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert (told.stdout, told.returncode) == ("[]\n", 0), told.stderr
    with gateway.client() as http:
        http.post("/queues/untraced/jobs", json=1, headers=CALLER)
        assert http.get(f"/queues/untraced/{NEXT}&ack=auto").headers["traceparent"] == CALLER["traceparent"]


def test_the_names_are_those_of_the_conventions() -> None:
    """Those of the release that SCHEMA_URL names."""
    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    known |= {error_attributes.ERROR_TYPE}
    used = {value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)}
    used = {each for each in used if "." in each and "/" not in each}
    assert {each for each in used if not each.startswith("messaging.kestrel.")} <= known
    assert conventions.SCHEMA_URL in {each.value for each in Schemas}
    kinds = {each.value for each in messaging_attributes.MessagingOperationTypeValues}
    assert {
        conventions.ENQUEUE.type,
        conventions.NEXT.type,
        conventions.settlement(conventions.State.ACKED).type,
    } <= kinds
