"""Dead letters over HTTP: policies say when and where, a redrive brings them back."""

import time

import pytest

from tests.api.test_leases import take
from tests.lab.gateway import running
from tests.lab.waiting import undisturbed

pytestmark = pytest.mark.usefixtures("ledger_balances")

POLICIES = """
[queues.twice]
max_attempts = 2
[queues."head-*"]
max_attempts = 2
retry = "head"
[queues."orders*"]
dead_letter = "failed"
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """A gateway with policies and a default of three attempts."""
    directory = tmp_path_factory.mktemp("dead")
    (directory / "queues.toml").write_text(POLICIES)
    flags = ("--queues", str(directory / "queues.toml"), "--max-attempts", "3", "--grace", "0.3")
    with running(directory / "data", *flags) as gateway:
        yield gateway


@pytest.fixture
def http(gateway):
    with gateway.client() as client:
        yield client


def fail(http, queue, times, **body):
    """Takes and nacks; the answers' statuses and positions."""
    answers = [http.post(take(http, queue)["lease"]["url"] + "/nack", json=body) for _ in range(times)]
    return [(each.status_code, each.json()["position"] if each.content else None) for each in answers]


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("plain", [(204, None), (204, None), (200, "dead")]),
        ("twice", [(204, None), (200, "dead")]),
        ("head-of", [(204, None), (200, "dead")]),
    ],
)
def test_a_job_has_as_many_attempts_as_its_queue_allows(http, name, answers):
    """By policy or by default; the last nack says that the job is a dead letter, and a redrive starts again."""
    http.post(f"/queues/{name}/jobs", json={"n": 1})
    for _ in range(2):
        assert fail(http, name, len(answers), reason="boom") == answers
        assert http.get(f"/queues/{name}/next?timeout=0").status_code == 204
        assert http.post(f"/queues/{name}/redrive").json() == {"redriven": 1, "expired": 0, "left": 0}
    job = take(http, name)
    assert (job["attempt"], job["data"], job["attributes"]["lasterror"]) == (1, {"n": 1}, "boom")
    http.post(job["lease"]["url"] + "/ack")


def test_a_last_nack_is_not_delayed(http):
    """The answer names the dead letters and no time."""
    http.post("/queues/twice/jobs", json=1)
    fail(http, "twice", 1)
    answer = http.post(take(http, "twice")["lease"]["url"] + "/nack", json={"delay": 600})
    assert (answer.status_code, answer.json()) == (200, {"position": "dead"})
    http.post("/queues/twice/redrive")


def test_dead_letters_on_a_queue_of_their_own_are_jobs_like_others(http):
    """A policy's `dead_letter` names a queue: its consumers see why, when, how often and from where."""
    http.post("/queues/orders/jobs", json={"order": 7})
    assert http.post(take(http, "orders")["lease"]["url"] + "/reject", json={"reason": "no stock"}).status_code == 204
    letter = take(http, "failed")
    told = letter["attributes"]
    assert (letter["data"], letter["attempt"]) == ({"order": 7}, 1)
    assert (told["deadreason"], told["deadqueue"], told["deadattempts"], told["lasterror"]) == (
        "rejected",
        "orders",
        1,
        "no stock",
    )
    assert told["deadtime"].endswith("Z")
    http.post(letter["lease"]["url"] + "/nack")
    http.post("/queues/failed/jobs", json="of its own")
    assert http.post("/queues/orders/redrive").json() == {"redriven": 1, "expired": 0, "left": 0}
    job = take(http, "orders")
    assert (job["id"], job["attempt"]) == (letter["id"], 1)
    assert not [name for name in job["attributes"] if name.startswith("dead")]
    assert take(http, "failed")["data"] == "of its own"


@undisturbed(0.05)
def test_a_job_whose_time_is_over_is_dropped_on_the_way_back(http):
    """It is counted as expired, not as redriven."""
    http.post("/queues/brief/jobs?ttl=0.3", json=1)
    http.post(take(http, "brief")["lease"]["url"] + "/reject")
    time.sleep(0.35)
    assert http.post("/queues/brief/redrive").json() == {"redriven": 0, "expired": 1, "left": 0}
    assert http.get("/queues/brief/next?timeout=0").status_code == 204


def test_as_many_come_back_as_are_asked_for(http):
    """`max` bounds one call, `left` says what remains."""
    for number in range(5):
        http.post("/queues/some/jobs", json=number)
        http.post(take(http, "some")["lease"]["url"] + "/reject")
    assert http.post("/queues/some/redrive", json={"max": 2}).json() == {"redriven": 2, "expired": 0, "left": 3}
    assert [take(http, "some")["data"] for _ in range(2)] == [0, 1]
    assert http.post("/queues/some/redrive", json={}).json() == {"redriven": 3, "expired": 0, "left": 0}
    assert http.post("/queues/some/redrive").json() == {"redriven": 0, "expired": 0, "left": 0}


def test_a_queue_that_is_not_there_is_told(http):
    """A 404 as everywhere, and none is made by asking; a queue of which only dead letters are left is one."""
    for name in ("nosuch", "orders2"):
        answer = http.post(f"/queues/{name}/redrive")
        assert (answer.status_code, answer.json()["code"]) == (404, "queue-not-found")
        assert http.get(f"/queues/{name}").status_code == 404
    for name in ("gone", "orders2"):
        http.post(f"/queues/{name}/jobs", json=1)
        assert http.post(take(http, name)["lease"]["url"] + "/reject").status_code == 204
        assert http.delete(f"/queues/{name}").status_code == 200
        assert http.post(f"/queues/{name}/redrive").json() == {"redriven": 1, "expired": 0, "left": 0}
        assert http.get(f"/queues/{name}").json()["items"] == 1


@pytest.mark.parametrize("body", [b'{"max":0}', b'{"max":10001}', b'{"max":"1"}', b'{"x":1}', b"[]", b"{"])
def test_a_bad_redrive_is_told(http, body):
    """What the contract does not describe is a 400."""
    answer = http.post("/queues/some/redrive", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")


def test_dead_letters_survive_a_kill(tmp_path):
    """kill -9 of everything: the dead letters are there, and come back."""
    with running(tmp_path / "data") as gateway:
        with gateway.client() as http:
            for number in range(3):
                http.post("/queues/q/jobs", json=number)
                assert http.post(take(http, "q")["lease"]["url"] + "/reject").status_code == 204
        gateway.kill()
        gateway.start()
        with gateway.client() as http:
            assert http.post("/queues/q/redrive").json()["redriven"] == 3
            assert sorted(take(http, "q")["data"] for _ in range(3)) == [0, 1, 2]


def rejected(http, queue, *reasons):
    """So many dead letters; their ids, the oldest first."""
    ids = []
    for reason in reasons:
        assert http.post(f"/queues/{queue}/jobs", json=reason).status_code == 201
        job = take(http, queue)
        assert http.post(job["lease"]["url"] + "/reject", json={"reason": reason}).status_code in {200, 204}
        ids.append(job["id"])
    return ids


def test_dead_letters_are_counted_seen_and_deleted_after_their_queue(http):
    """They outlive it, a queue of the name finds them again, and deleting them leaves nothing."""
    path = "/queues/graves/dead-letters"
    assert [http.get(path).status_code, http.get(path + "/peek").status_code, http.delete(path).status_code] == [
        404
    ] * 3
    oldest, _ = rejected(http, "graves", "first", "second")
    assert http.delete("/queues/graves").status_code == 200
    figures = http.get(path).json()
    assert figures.pop("bytes") > 200
    assert 0 <= figures.pop("age_s") < 60
    assert figures == {"queue": "graves", "items": 2, "dead_letter": None}
    letter = http.get(path + "/peek").json()
    assert (letter["id"], letter["data"]) == (oldest, "first")
    assert {"deadreason": "rejected", "lasterror": "first", "deadattempts": 1}.items() <= letter["attributes"].items()
    event = http.get(path + "/peek", headers={"Accept": "application/cloudevents+json"})
    assert (event.headers["content-type"], event.json()["deadqueue"]) == ("application/cloudevents+json", "graves")

    assert http.get("/queues/graves").status_code == 404  # asking has not made it
    assert http.post("/queues/graves/jobs", json=1).status_code == 201
    assert http.get(path).json()["items"] == 2
    assert http.delete(path).json() == {"queue": "graves", "deleted": 2}
    assert http.delete(path).json() == {"queue": "graves", "deleted": 0}
    assert http.get(path).json()["items"] == 0
    assert http.get(path + "/peek").json()["code"] == "queue-empty"
    assert http.post("/queues/graves/redrive").json() == {"redriven": 0, "expired": 0, "left": 0}
    assert http.get("/queues/graves").json()["items"] == 1


def test_lists_and_figures_count_them(http):
    """Of queues and subscriptions, in the list, of one queue and by server; the list is filtered and sorted by them."""
    http.post("/queues/count-none/jobs", json=1)
    http.put("/queues/count-two/subscriptions/audit").raise_for_status()
    rejected(http, "count-two", "one", "two")
    job = take(http, "count-two+audit")
    assert http.post(job["lease"]["url"] + "/reject").status_code in {200, 204}

    def listed(query):
        found = http.get(f"/queues?filter=name~count-*&{query}").json()["queues"]
        return [(each["queue"], each["dead_letters"]) for each in found]

    counts = [("count-two", 2), ("count-two+audit", 1), ("count-none", 0)]
    assert listed("sort=-dead_letters") == counts
    assert listed("filter=dead_letters>0") == counts[:2]
    for name, count in counts:
        figures = http.get(f"/queues/{name}?detail=servers").json()
        assert (figures["dead_letters"], [each["dead_letters"] for each in figures["servers"]]) == (count, [count])
    assert http.get("/queues/count-of-nothing?missing=zero").json()["dead_letters"] == 0


def test_dead_letters_on_a_queue_that_the_policy_names_are_that_one_s(http):
    """The count says where they go, and deleting leaves them alone: they are jobs there."""
    rejected(http, "orders-named", "one")
    before = http.get("/queues/failed").json()["items"]
    figures = http.get("/queues/orders-named/dead-letters").json()
    assert (figures["items"], figures["dead_letter"]) == (0, "failed")
    assert http.get("/queues/orders-named").json()["dead_letters"] == 0
    assert http.delete("/queues/orders-named/dead-letters").json()["deleted"] == 0
    assert http.get("/queues/failed").json()["items"] == before > 0
    assert http.post("/queues/orders-named/redrive").json()["redriven"] == 1
