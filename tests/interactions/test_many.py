"""Cells about batches and streams. Each docstring is the cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.interactions.calls import LATE_S, Api
from tests.lab.gateway import Running, running
from tests.streams.reader import StreamReader

POLICIES = """
[queues."back-off-*"]
retry_delay = [0.2, 300]
[queues."limits-*"]
max_in_flight = 3
[queues."rate-*"]
rate = 0.001
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with policies, whose streams show at once that nothing comes."""
    directory = tmp_path_factory.mktemp("many")
    (directory / "queues.toml").write_text(POLICIES)
    flags = ("--queues", str(directory / "queues.toml"), "--stream-keepalive", "0.2")
    with running(directory / "data", *flags) as made:
        yield made


@pytest.fixture(scope="module")
def api(gateway: Running) -> Iterator[Api]:
    with gateway.client() as http:
        yield Api(http)


def batch(api: Api, queue: str, most: int = 10, timeout_s: float = LATE_S) -> tuple[list[Any], str]:
    """The data of the jobs of the next batch, and the path of its lease; no job and no path if there is none."""
    answer = api.http.get(f"/queues/{queue}/next", params={"max": most, "timeout": timeout_s})
    assert answer.status_code in {200, 204}, answer.text
    if answer.status_code == 204:
        return [], ""
    return [job["data"] for job in answer.json()["jobs"]], answer.json()["lease"]["url"]


def settle(api: Api, url: str, **body: object) -> list[dict[str, Any]]:
    """The result of each job."""
    answer = api.http.post(f"{url}/settle", json={"rest": "ack"} | body)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def stream(gateway: Running, path: str) -> StreamReader:
    """A stream whose first line is read."""
    reader = StreamReader(gateway, path)
    reader.next("open")
    return reader


def test_delay_batches(api: Api) -> None:
    """Jobs that are due come in batches. A nack with `delay` delays each job of the batch."""
    for number in range(2):
        assert api.http.post("/queues/delay-many/jobs?delay=0.2", json=number).status_code == 201
    api.wait_for_items("delay-many", 2)
    numbers, url = batch(api, "delay-many")
    assert sorted(numbers) == [0, 1]
    assert api.http.post(url + "/nack", json={"delay": 0.2}).json()["position"] == "tail"
    assert batch(api, "delay-many", timeout_s=0) == ([], "")
    api.wait_for_items("delay-many", 2)
    assert sorted(batch(api, "delay-many")[0]) == [0, 1]


def test_back_off_batches(api: Api) -> None:
    """Each job of a nacked batch waits as long as its own attempts say."""
    api.put("back-off-many", 1)
    api.nack(api.take("back-off-many"))
    api.wait_for_items("back-off-many", 1)
    api.put("back-off-many", 2)
    numbers, url = batch(api, "back-off-many")
    assert numbers == [1, 2]
    assert len(settle(api, url, rest="nack")) == 2
    assert batch(api, "back-off-many")[0] == [2]
    assert batch(api, "back-off-many", timeout_s=0) == ([], "")


def test_pause_batches(api: Api) -> None:
    """A paused queue gives no batch. One that was given before can be settled."""
    api.put("pause-many", 1, 2, 3)
    numbers, url = batch(api, "pause-many", 2)
    api.pause("pause-many")
    answer = api.http.get("/queues/pause-many/next?max=2&timeout=0")
    assert (numbers, answer.status_code, answer.headers["queue-paused"]) == ([1, 2], 204, "true")
    settle(api, url, nacks=[{"job": 0, "position": "head"}])
    api.resume("pause-many")
    assert batch(api, "pause-many")[0] == [1, 3]


def test_limits_batches(api: Api) -> None:
    """A batch has as many jobs as the limit leaves room for. Each counts until it is settled."""
    api.put("limits-many", *range(6))
    numbers, url = batch(api, "limits-many")
    assert numbers == [0, 1, 2]
    assert api.limited("limits-many")
    assert batch(api, "limits-many", timeout_s=0) == ([], "")
    assert api.http.post(url + "/ack", json={"upto": 2}).status_code == 204
    assert batch(api, "limits-many")[0] == [3, 4]


def test_rate_batches(api: Api) -> None:
    """A batch has as many jobs as the rate allows at that moment."""
    api.put("rate-many", 1, 2)
    assert batch(api, "rate-many")[0] == [1]
    assert api.limited("rate-many", "rate")


def test_fanout_batches(api: Api) -> None:
    """A queue and each of its subscriptions give batches of their own. A nacked job of the queue goes to its head,
    because every subscription would get its copy."""
    name = api.subscribe("fanout-many")
    api.put("fanout-many", 1, 2, 3)
    results = []
    for each in ("fanout-many", name):
        numbers, url = batch(api, each)
        assert numbers == [1, 2, 3]
        results.append(settle(api, url, nacks=[{"job": 1, "position": "tail"}])[1])
    assert [each["status"] for each in results] == [200, 204]
    assert results[0]["position"] == "head"
    assert [batch(api, each)[0] for each in ("fanout-many", name)] == [[2], [2]]


def test_several_batches(api: Api) -> None:
    """`400`: `max` is for one queue."""
    answer = api.http.get("/next?queue=several-many&queue=several-more&max=5")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    body = {"queues": ["several-many", "several-more"], "max": 5}
    assert api.http.post("/next", json=body).status_code == 400


def test_delay_streams(api: Api, gateway: Running) -> None:
    """A job comes when it is due. A nack with `delay` makes room for the next job at once."""
    assert api.http.post("/queues/delay-stream/jobs?delay=0.2", json=1).status_code == 201
    with stream(gateway, "/queues/delay-stream/stream?window=1") as reader:
        job = reader.next()
        assert job["data"] == 1
        api.put("delay-stream", 2)
        api.nack(job, delay=300)
        assert reader.next()["data"] == 2


def test_back_off_streams(api: Api, gateway: Running) -> None:
    """A nacked job makes room for the next job, and comes again when it is due."""
    api.put("back-off-stream", 1, 2)
    with stream(gateway, "/queues/back-off-stream/stream?window=1") as reader:
        assert "due_at" in api.nack(reader.next())
        second = reader.next()
        assert second["data"] == 2
        api.ack(second)
        again = reader.next()
        assert (again["data"], again["attempt"]) == (1, 2)


def test_limits_streams(api: Api, gateway: Running) -> None:
    """A stream has no more unsettled jobs than the limit allows, however large its window is."""
    api.put("limits-stream", *range(5))
    with stream(gateway, "/queues/limits-stream/stream?window=10") as reader:
        jobs = reader.jobs(3)
        assert [reader.line() for _ in range(2)] == [{"type": "keepalive"}] * 2
        assert api.limited("limits-stream")
        api.ack(jobs[1])
        assert reader.next()["data"] == 3


def test_rate_streams(api: Api, gateway: Running) -> None:
    """The jobs of a stream come at the rate."""
    api.put("rate-stream", 1, 2)
    with stream(gateway, "/queues/rate-stream/stream?window=10") as reader:
        api.ack(reader.next())
        assert [reader.line() for _ in range(2)] == [{"type": "keepalive"}] * 2
    assert api.items("rate-stream") == 1


def test_fanout_streams(api: Api, gateway: Running) -> None:
    """A subscription has streams of its own, by its name."""
    name = api.subscribe("fanout-stream")
    with stream(gateway, f"/queues/{name}/stream") as reader:
        api.put("fanout-stream", 1)
        job = reader.next()
        assert (job["queue"], job["data"]) == (name, 1)
        api.ack(job)
    assert [api.items(each) for each in ("fanout-stream", name)] == [1, 0]
