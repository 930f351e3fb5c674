"""`/metrics`: what is exported, of every worker, for operators and observers; docs/monitoring.md says the same."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.api.metrics.exposition import METRICS, PREFIX, Exposition
from gateway.forwarding.commands import WorkerFigures, pack_result, unpack_result
from tests.api.test_leases import take
from tests.lab.examples import some
from tests.lab.gateway import running
from tests.lab.ledger import assert_balanced, figures, total, workers
from tests.lab.waiting import until
from tests.lab.workers import client_of_each

PATH = "/metrics"
TIMES = 12


def scrape(http, **request):
    answer = http.get(PATH, **request)
    assert answer.status_code == 200, answer.text
    assert_balanced(answer.text)
    return figures(answer.text)


def children(gateway):
    """The gateway's workers, by pid."""
    pids = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def by_count(count):
    return "1 worker" if count == 1 else f"{count} workers"


@pytest.fixture(scope="module", params=some([2, 1]), ids=by_count)
def many(request, tmp_path_factory):
    """How many workers, an HTTP client of the gateway that makes a connection for each request, and the gateway."""
    with running(
        tmp_path_factory.mktemp("metrics") / "data", "--workers", str(request.param), "--queue-figures-interval", "0.2"
    ) as gateway:
        with gateway.client(headers={"connection": "close"}) as http:
            until(lambda: total(scrape(http), "workers", state="answered") == request.param)
            assert http.post("/queues/first/jobs", json=1).status_code == 201
            until(lambda: total(scrape(http), "queue_items") == 1, within_s=60)
            yield request.param, http, gateway


BOTH = pytest.mark.parametrize("many", [2, 1], ids=by_count, indirect=True)
"""For tests of what workers tell each other; the figures of each are made in the same way."""


@BOTH
def test_one_scrape_answers_for_all_workers(many, queue):
    """Whichever worker is asked, every job, lease, settlement and hop of all of them is in the answer."""
    count, http, gateway = many
    with client_of_each(gateway, count) as clients:
        before = scrape(http)
        for number in range(TIMES):
            assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201
        urls = [take(clients[number % count], queue)["lease"]["url"] for number in range(TIMES)]
        for number, url in enumerate(urls):
            other = clients[(number + 1) % count]
            assert other.post(url + ("/nack" if number % 2 else "/ack")).status_code == 204
        urls = [take(http, queue)["lease"]["url"] for _ in range(TIMES // 2)]
        for each in clients:
            now = scrape(each)

            def grown(name, now=now, **labels):
                return total(now, name, **labels) - total(before, name, **labels)

            assert workers(now) == [str(number) for number in range(count)]
            assert (grown("jobs_enqueued_total"), grown("leases_delivered_total")) == (TIMES, TIMES * 3 // 2)
            assert (grown("leases_settled_total", outcome="acked"), grown("leases_open")) == (TIMES // 2, TIMES // 2)
            moved = grown("leases_settled_total", outcome="nacked"), grown("jobs_moved_total", to="tail")
            assert moved == (TIMES // 2, TIMES // 2)
            sent = grown("forwards_total", peer="worker", direction="sent")
            assert grown("forwards_total", peer="worker", direction="received") == sent
            assert sent == (TIMES if count > 1 else 0)
            assert grown("forwards_total", peer="replica") == grown("forward_failures_total") == 0
            assert grown("http_requests_total", status="2xx") >= TIMES * 7 // 2
            assert total(now, "kestrel_connections", state="pinned") >= TIMES // 2
            assert total(now, "kestrel_server_status", status="up") == total(now, "kestrel_server_status") == count
            assert total(now, "workers", state="silent") == 0
    for url in urls:
        assert http.post(url + "/ack").status_code == 204


@BOTH
def test_a_deleted_queue_s_orders_are_hops_too(many, queue):
    """The worker that deletes it informs each other one: sent once, received once."""
    count, http, _ = many
    assert http.post(f"/queues/{queue}/jobs", json=1).status_code == 201
    before = scrape(http)
    assert http.delete(f"/queues/{queue}").status_code == 200
    now = scrape(http)
    for direction in ("sent", "received"):
        hops = [total(each, "forwards_total", peer="worker", direction=direction) for each in (before, now)]
        assert hops[1] - hops[0] == count - 1


def test_it_is_what_prometheus_reads(many):
    """The media type of the text format 0.0.4; each family once, with its type and what it means; nothing is cached."""
    answer = many[1].get(PATH)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    families = list(text_string_to_metric_families(answer.text))
    assert len({each.name for each in families}) == len(families)
    samples = [each for family in families for each in family.samples]
    assert figures(answer.text) == {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    for each in families:
        assert each.documentation
        assert each.samples, each.name
        kind = "counter" if each.samples[0].name.endswith("_total") else "gauge"
        assert each.type == ("histogram" if each.samples[0].name.endswith("_bucket") else kind)


def test_the_documented_metrics_are_those_exported(many, root):
    """docs/monitoring.md has a row for each metric, with its labels and meaning, and none for another."""
    rows = {}
    table = (root / "docs" / "monitoring.md").read_text().split("<!-- metrics -->")[1]
    for name, labels, meaning in re.findall(r"^\| `([a-z_]+)` \| ([^|]*) \| ([^|]*) \|$", table, re.MULTILINE):
        rows[name] = ({*re.findall(r"`([a-z]+)`", labels)}, meaning)
    exported = {}
    assert many[1].get("/queues/a!/next").status_code == 400  # a problem
    for family in text_string_to_metric_families(many[1].get(PATH).text):
        for sample in family.samples:
            name = family.name if family.type == "histogram" else sample.name
            exported[name] = ({*sample.labels} - {"le"}, family.documentation)
    assert rows == exported
    others = {each for each in exported if re.match(f"{PREFIX}(workers|build_info|queue_|queues$|broker_)", each)}
    assert {each.full_name for each in METRICS} == exported.keys() - others


def test_without_keys_it_is_guarded_as_any_call(http):
    """A foreign Host or Origin is refused, and so is another method."""
    assert http.get(PATH, headers={"Host": "evil.example"}).status_code == 403
    assert http.get(PATH, headers={"Origin": "http://evil.example"}).status_code == 403
    assert http.post(PATH).status_code == 405
    assert http.get(PATH).status_code == 200


def test_a_worker_that_is_frozen_or_dead_is_told(tmp_path):
    """Its series are missing, `silent` counts it, the scrape ends in time; a new one in its place begins at zero."""
    with running(tmp_path / "data", "--workers", "2") as gateway:
        with gateway.client(headers={"connection": "close"}) as http:
            until(lambda: total(scrape(http), "workers", state="answered") == 2)
            for number in range(10):
                http.post("/queues/q/jobs", json=number)
            before = scrape(http)
            starts = {each: total(before, "jobs_enqueued_total", worker=each) for each in "01"}
            victim, other = children(gateway)
            os.kill(victim, signal.SIGSTOP)
            try:
                began = time.monotonic()
                missing = scrape(http)  # a frozen worker accepts no connection
                assert time.monotonic() - began < 15
            finally:
                os.kill(victim, signal.SIGKILL)
            assert (total(missing, "workers", state="answered"), total(missing, "workers", state="silent")) == (1, 1)
            (left,) = workers(missing)
            assert total(missing, "jobs_enqueued_total") == starts[left]
            until(lambda: total(scrape(http), "workers", state="answered") == 2)
            now = scrape(http)
            assert total(now, "jobs_enqueued_total", worker=left) == starts[left]
            assert total(now, "jobs_enqueued_total") == starts[left]
            assert other in children(gateway)


def test_figures_travel_between_by_countas_they_are():
    """Names, labels and numbers, whole and not."""
    told = WorkerFigures(3, (("leases_open", (), 7), ("forwards_total", ("worker", "sent"), 2), ("x", (), 0.5)))
    assert unpack_result(pack_result(1, told)) == (1, told)


def test_openmetrics_is_given_to_those_who_prefer_it(many):
    """As Prometheus asks for it: the media type, the end mark, and the same series."""
    plain = set(figures(many[1].get(PATH).text))
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
    answer = many[1].get(PATH, headers={"Accept": accept})
    plain &= set(figures(many[1].get(PATH).text))  # the queues that an earlier test has deleted go meanwhile
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")
    found = [sample for family in openmetrics(answer.text) for sample in family.samples]
    assert {(each.name, frozenset(each.labels.items())) for each in found} >= plain
    for other in (
        "text/plain",
        "*/*",
        "application/openmetrics-text;q=0",
        "text/plain, application/openmetrics-text;q=0.1",
    ):
        assert many[1].get(PATH, headers={"Accept": other}).headers["content-type"].startswith("text/plain")


def test_durations_and_problems_are_counted_to_the_unit(many, queue):
    """Every request, by its route and class; each wait, wake-up and hold; each problem by its code."""
    _, http, _ = many
    before = scrape(http)
    for number in range(12):
        assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201
    leases = [take(http, queue)["lease"]["url"] for _ in range(12)]
    for number, url in enumerate(leases):
        assert http.post(url + ("/reject" if number < 4 else "/ack")).status_code == 204
    for _ in range(3):
        assert http.get("/queues/a!/next").status_code == 400
    with ThreadPoolExecutor() as pool:
        polled = pool.submit(http.get, f"/queues/{queue}/next?timeout=20")
        until(lambda: total(scrape(http), "polls_parked") == 1)
        assert http.post(f"/queues/{queue}/jobs", json=0).status_code == 201
        job = polled.result().json()
    assert http.post(job["lease"]["url"] + "/nack").status_code == 204
    assert http.post(take(http, queue)["lease"]["url"] + "/ack").status_code == 204
    now = scrape(http)

    def grown(name, **labels):
        return total(now, name, **labels) - total(before, name, **labels)

    duration = "http_request_duration_seconds_count"
    assert grown(duration, route="POST /queues/{queue}/jobs", status="2xx") == 13
    assert grown(duration, route="GET /queues/{queue}/next", status="4xx") == 3
    assert grown(duration, route="GET /queues/{queue}/next", status="2xx") == 14
    assert grown("http_problems_total") == grown("http_problems_total", code="invalid-name") == 3
    assert grown("job_wait_seconds_count") == 13  # the last delivery was not the first one
    assert grown("job_wakeup_seconds_count") == 1
    assert grown("lease_hold_seconds_count", outcome="acked") == 9
    assert grown("lease_hold_seconds_count", outcome="rejected") == 4
    assert grown("lease_hold_seconds_count", outcome="nacked") == 1
    assert 0 < grown("job_wait_seconds_sum") < 120


@pytest.mark.parametrize("way", ["next?max=10", "stream"])
def test_each_job_that_comes_with_others_counts_its_wait(many, queue, way):
    """The histogram has one observation for each job, also of a batch or a stream: as many as there are leases."""
    _, http, _ = many
    before = scrape(http)
    for number in range(10):
        assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201
    if way == "stream":
        with http.stream("GET", f"/queues/{queue}/stream?ack=auto") as answer:
            lines = (line for line in answer.iter_lines() if line)
            while json.loads(next(lines)).get("data") != 9:
                pass
    else:
        batch = http.get(f"/queues/{queue}/{way}").json()
        assert http.post(batch["lease"]["url"] + "/ack").status_code in {200, 204}
    now = scrape(http)
    for name in ("job_wait_seconds_count", "leases_delivered_total"):
        assert total(now, name) - total(before, name) == 10, name


@pytest.mark.parametrize("poll", ["queues/{}/next?timeout=20", "next?timeout=20&queue={}&queue=other"])
def test_a_poll_of_one_or_more_queues_counts_its_wakeup(many, queue, poll):
    """It waited before its job was stored."""
    _, http, _ = many
    before = scrape(http)
    with ThreadPoolExecutor() as pool:
        polled = pool.submit(http.get, "/" + poll.format(queue))
        until(lambda: total(scrape(http), "polls_parked") > total(before, "polls_parked"))
        assert http.post(f"/queues/{queue}/jobs", json=0).status_code == 201
        url = polled.result().json()["lease"]["url"]
    assert http.post(url + "/ack").status_code == 204
    name = "job_wakeup_seconds_count"
    assert total(scrape(http), name) - total(before, name) == 1


def test_a_worker_is_never_told_twice():
    """If a worker answers as well as its successor, the scrape still has one series of each name."""
    told = [WorkerFigures(0, (("leases_open", (), number),)) for number in (1, 2)]
    found = figures(Exposition(told, 1).text().decode())
    assert total(found, "leases_open") == 2
    assert (total(found, "workers", state="answered"), total(found, "workers", state="silent")) == (1, 0)


def test_pauses_and_limits_are_counted(tmp_path):
    """Queues that are paused, and polls that got no job because of a pause or a limit: of one queue and of several."""
    policies = tmp_path / "queues.toml"
    policies.write_text("[queues.one]\nmax_in_flight = 1\n[queues.slow]\nrate = 0.001\n")
    with running(tmp_path / "data", "--queues", str(policies)) as gateway, gateway.client() as http:
        for name in ("one", "slow", "paused"):
            for _ in range(2):
                assert http.post(f"/queues/{name}/jobs", json=1).status_code == 201
        assert http.put("/queues/paused/pause").status_code == 200
        for name in ("one", "slow"):
            assert http.get(f"/queues/{name}/next?timeout=0").status_code == 200
        for name in ("one", "slow", "paused"):
            for _ in range(2):
                assert http.get(f"/queues/{name}/next?timeout=0").status_code == 204
        assert http.get("/next?queue=paused&timeout=0").status_code == 204
        assert http.get("/next?queue=slow&queue=one&timeout=0").status_code == 204
        now = scrape(http)
        held = {reason: total(now, "polls_held_total", reason=reason) for reason in ("paused", "max_in_flight", "rate")}
        assert held == {"paused": 3, "max_in_flight": 2, "rate": 3}
        assert total(now, "queues_paused") == 1
        assert http.delete("/queues/paused/pause").status_code == 200
        assert total(scrape(http), "queues_paused") == 0
