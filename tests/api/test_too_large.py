"""A job that its queue can never take is refused for good; one that it has no room for now may come again."""

import asyncio

import pytest

from gateway.errors import JobTooLarge, QueueFull
from tests.kestrel.standin import StandIn, answer
from tests.kestrel.support import client
from tests.lab.gateway import running

LIMITS = """
[queues.small]
max_item_bytes = 600

[queues.small__dead]
max_item_bytes = 10

[queues.one]
max_items = 1
"""
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A gateway whose embedded broker has limits, and that knows a limit of its own."""
    folder = tmp_path_factory.mktemp("limited")
    (folder / "broker.toml").write_text(LIMITS)
    flags = ("--broker-config", str(folder / "broker.toml"), "--kestrel-max-item-bytes", "2000")
    with running(folder / "data", *flags) as gateway, gateway.client() as http:
        yield http


@pytest.mark.parametrize(("queue", "size"), [("small", 600), ("large", 2000)])
def test_a_job_above_the_limit_is_a_413(limited, queue, size):
    """By the embedded broker's own limit, and by the setting: not retryable, and nothing is stored."""
    refused = limited.post(f"/queues/{queue}/jobs", content=b"x" * size)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (413, "job-too-large", False)
    assert "retry-after" not in refused.headers
    assert limited.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    assert limited.post(f"/queues/{queue}/jobs", content=b"x" * (size // 4)).status_code == 201
    assert limited.get(f"/queues/{queue}/next?timeout=0").status_code == 200


def test_a_full_queue_may_have_room_later(limited):
    """503 with Retry-After, as ever."""
    assert limited.post("/queues/one/jobs", content=b"1").status_code == 201
    full = limited.post("/queues/one/jobs", content=b"2")
    assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "queue-full", "1")


@pytest.mark.parametrize(("queue", "size"), [("small", 600), ("batch", 2000)])
def test_of_many_jobs_only_that_one_is_refused(limited, queue, size):
    """The others are stored; each result says which it is."""
    jobs = [{"data": "a"}, {"data": "x" * size}, {"data": "b"}]
    answered = limited.post(f"/queues/{queue}/jobs/batch", json={"jobs": jobs})
    assert (answered.status_code, [each["status"] for each in answered.json()["results"]]) == (207, [201, 413, 201])
    assert answered.json()["results"][1]["retryable"] is False


def test_its_idempotency_key_is_free_again(limited):
    """Nothing was stored under it, so a job that fits is."""
    key = {"idempotency-key": "k"}
    assert limited.post("/queues/small/jobs", content=b"x" * 600, headers=key).status_code == 413
    stored = limited.post("/queues/small/jobs", content=b"x", headers=key)
    assert (stored.status_code, "idempotency-replayed" in stored.headers) == (201, False)


def test_a_dead_letter_that_does_not_fit_leaves_the_job_on_its_queue(limited):
    """The answer to the reject says so, and the job comes again."""
    limited.post("/queues/small/flush")
    limited.post("/queues/small/jobs", content=b"1")
    lease = limited.get("/queues/small/next?timeout=0").json()["lease"]["url"]
    assert limited.post(lease + "/reject").json()["position"] in ("head", "tail")
    assert limited.get("/queues/small/next?timeout=1").status_code == 200


def test_nothing_is_sent_that_is_above_the_setting():
    """Alone and among many; one that has just the size goes."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_max_item_bytes=100) as kestrel:
            with pytest.raises(JobTooLarge, match=r"101 bytes.*maximum of 100"):
                await kestrel.put("q", b"x" * 101)
            outcomes = await kestrel.put_many("q", [(b"x" * size, 0) for size in (100, 101, 1)])
            assert [type(each) for each in outcomes] == [type(None), JobTooLarge, type(None)]
            assert [len(item) for item in server.queues["q"]] == [100, 1]
            assert sum(line.startswith("set ") for line in server.log) == 2

    asyncio.run(main())


@pytest.mark.parametrize("other", ["stores", "full", "too large"])
def test_another_server_is_asked(other):
    """It is refused for good only where no server takes it."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            for _ in range(100):
                one.manners.once("set", answer(TOO_LARGE))
            if other == "full":
                two.max_items = 0
            for _ in range(100 * (other == "too large")):
                two.manners.once("set", answer(TOO_LARGE))
            for _ in range(8):
                outcomes = [await outcome(kestrel.put("q", b"x")), *await kestrel.put_many("q", [(b"x", 0)])]
                wanted = {"stores": type(None), "full": QueueFull, "too large": JobTooLarge}[other]
                assert [type(each) for each in outcomes] == [wanted] * 2
            assert len(one.manners.script["set"]) < 100
            assert all(each.state.value == "up" for each in kestrel.backends())

    asyncio.run(main())


async def outcome(put):
    """What became of it."""
    try:
        return await put
    except (JobTooLarge, QueueFull) as error:
        return error
