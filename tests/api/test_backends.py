"""The servers behind the gateway, over HTTP: their states, taking one out, and answers of only some of them."""

import threading
import time

import pytest

from tests.cluster.rig import before, brokers
from tests.lab.waiting import until

FAST = ("--kestrel-command-timeout", "0.5", "--kestrel-connect-timeout", "0.3")


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """Two brokers, which tests may kill, and a gateway before them."""
    directory = tmp_path_factory.mktemp("pair")
    with brokers(directory, 2) as many, before(directory, many, *FAST) as gateway, gateway.client() as http:
        yield many, http


@pytest.fixture
def pair(mortal):
    """Both brokers are up."""
    many, http = mortal
    for broker in many:
        if broker.process.poll() is not None:
            broker.start()
    until(lambda: all(each["status"] == "up" for each in shown(http).values()))
    return mortal


def shown(http):
    return {each["server"]: each for each in http.get("/backends").json()["backends"]}


def test_every_server_is_shown(pair):
    """By its address, with version, capabilities and connections."""
    many, http = pair
    found = shown(http)
    assert set(found) == {broker.address for broker in many}
    for each in found.values():
        assert (each["status"], each["version"], each["software"], each["missing"]) == ("up", "2.4.8", "kestrel", [])
        assert (each["leaving"], each["error"]) == (False, None)
        assert sum(each["connections"].values()) >= 1


def test_a_server_is_taken_out_drained_and_put_back(pair):
    """Read-only: jobs go to the other at once, its own are still delivered; then up again."""
    many, http = pair
    one, two = many
    for i in range(12):
        http.post("/queues/drain/jobs", content=b"%d" % i)
    kept = one.stat("queue_drain_items")
    assert 0 < kept < 12
    answer = http.put(f"/backends/{one.address}/status", json={"status": "readonly"})
    assert (answer.status_code, answer.json()["status"]) == (200, "readonly")
    assert one.ask("status") == "READONLY"
    for i in range(10):
        assert http.post("/queues/drain/jobs", content=b"%d" % i).status_code == 201
    assert one.stat("queue_drain_items") == kept
    assert http.get("/readyz").status_code == 200
    for _ in range(22):
        job = http.get("/queues/drain/next?timeout=2")
        assert job.status_code == 200
        assert http.post(f"/leases/{job.headers['lease-id']}/ack").status_code == 204
    assert one.stat("queue_drain_items") == two.stat("queue_drain_items") == 0
    assert http.put(f"/backends/{one.address}/status", json={"status": "quiescent"}).status_code == 200
    empty = http.get("/queues/drain/next?timeout=0")
    assert (empty.status_code, empty.headers["queue-coverage"]) == (204, "1/2")
    assert http.put(f"/backends/{one.address}/status", json={"status": "up"}).json()["error"] is None
    empty = http.get("/queues/drain/next?timeout=0")
    assert (empty.status_code, "queue-coverage" in empty.headers) == (204, False)


def test_quiescent_servers_are_not_said_to_be_silent(pair):
    """They answer, and deliver nothing: the gateway is not ready, and a pause can neither be looked up nor ended."""
    many, http = pair
    for each in many:
        assert http.put(f"/backends/{each.address}/status", json={"status": "quiescent"}).status_code == 200
    answers = [http.get("/readyz"), http.delete("/queues/still/pause")]
    for each in many:
        assert http.put(f"/backends/{each.address}/status", json={"status": "up"}).status_code == 200
    assert [(answer.status_code, answer.json()["detail"]) for answer in answers] == [
        (503, "no Kestrel server delivers jobs at the moment"),
        (503, "no Kestrel server could be asked whether the queue is paused; try again"),
    ]


def test_a_status_that_somebody_else_set_is_noticed(pair):
    """An operator with telnet: the next put is stored elsewhere, and the list follows."""
    many, http = pair
    one = many[0]
    one.ask("status readonly")
    try:
        for i in range(10):
            assert http.post("/queues/telnet/jobs", content=b"%d" % i).status_code == 201
        until(lambda: shown(http)[one.address]["status"] == "readonly")
        assert one.stat("queue_telnet_items") == 0
    finally:
        one.ask("status up")
    until(lambda: shown(http)[one.address]["status"] == "up")


def test_wrong_orders_are_told(pair):
    """An unknown server, an unknown status, none at all."""
    many, http = pair
    missing = http.put("/backends/nowhere:1/status", json={"status": "up"})
    assert (missing.status_code, missing.json()["code"]) == (404, "server-not-found")
    for body in (b"", b"{}", b'{"status":"dead"}', b'{"status":"up","x":1}', b"nonsense"):
        wrong = http.put(f"/backends/{many[0].address}/status", content=body)
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid-body")


def test_jobs_of_one_ordering_key_stay_together(pair):
    """All of a key on one server, in order; bad keys are errors."""
    many, http = pair
    for i in range(10):
        answer = http.post("/queues/order/jobs", content=b"%d" % i, headers={"Ordering-Key": "customer-4711"})
        assert answer.status_code == 201
    ndjson = b"\n".join(b"%d" % i for i in range(10, 20))
    headers = {"Ordering-Key": "customer-4711", "Content-Type": "application/x-ndjson"}
    assert http.post("/queues/order/jobs", content=ndjson, headers=headers).status_code == 201
    assert sorted(broker.stat("queue_order_items") for broker in many) == [0, 20]
    for i in range(20):
        job = http.get("/queues/order/next?timeout=1")
        assert job.json()["data"] == i
        http.post(f"/leases/{job.headers['lease-id']}/ack")
    for bad in ("", "a b", "x" * 257):
        wrong = http.post("/queues/order/jobs", content=b"1", headers={"Ordering-Key": bad})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid-parameter")


def test_what_is_on_a_server(pair):
    """Items and open reads of every queue: children, dead letters and names that no gateway makes included."""
    many, http = pair
    before = shown(http)[many[1].address]
    client = many[1].client()
    client.get("totals+audit/peek")
    client.put("totals", b"1")  # and a copy for the child
    client.put("totals__dead", b"2")
    client.put("foreign name".replace(" ", "%"), b"3")
    assert client.get("totals+audit/open") == b"1"
    after = shown(http)[many[1].address]
    assert (after["items"] - before["items"], after["open_reads"] - before["open_reads"]) == (3, 1)
    assert set(before) == set(shown(http)[many[0].address])


def test_a_server_s_own_figures(pair):
    """`detail=servers` adds them; together they are the queue's."""
    many, http = pair
    for i in range(20):
        http.post("/queues/detail/jobs", content=b"%d" % i)
    queue = http.get("/queues/detail?detail=servers").json()
    assert {each["server"]: each["items"] for each in queue["servers"]} == {
        broker.address: broker.stat("queue_detail_items") for broker in many
    }
    assert sum(each["items"] for each in queue["servers"]) == queue["items"] == 20
    assert "servers" not in http.get("/queues/detail").json()
    assert http.get("/queues/detail?detail=all").status_code == 400


def test_answers_of_some_servers_say_so(pair):
    """With one of two away everything says 1/2; with both away it is 503, and nothing claims an empty queue."""
    many, http = pair
    for i in range(10):
        http.post("/queues/q/jobs", content=b"%d" % i)
    many[0].kill()
    until(lambda: shown(http)[many[0].address]["status"] == "down")
    assert shown(http)[many[0].address]["error"]
    dead = http.put(f"/backends/{many[0].address}/status", json={"status": "up"})
    assert (dead.status_code, dead.json()["code"]) == (503, "server-unavailable")
    assert many[0].address in dead.json()["detail"]
    calls = [
        http.get("/queues"),
        http.get("/queues/q"),
        http.get("/queues/q/peek"),
        http.get("/queues/nosuch"),
        http.post("/queues/q/flush"),
        http.get("/queues/q/peek"),
        http.get("/queues/q/next?timeout=0"),
        http.get("/queues/q/next?timeout=0.1"),
        http.delete("/queues/q"),
    ]
    assert [(each.status_code, each.headers.get("queue-coverage")) for each in calls] == [
        (status, "1/2") for status in (200, 200, 200, 404, 204, 404, 204, 204, 200)
    ]
    started = time.monotonic()
    many[1].kill()
    until(lambda: shown(http)[many[1].address]["status"] == "down")
    for method, path in (("GET", "/queues"), ("GET", "/queues/q/next?timeout=0"), ("POST", "/queues/q/jobs")):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "backend-unavailable"), path
    assert http.get("/readyz").status_code == 503
    for query in ("filter=items", "sort=x", "cursor=x"):  # known without asking a server
        assert http.get(f"/queues?{query}").status_code == 400
    assert time.monotonic() - started < 10


def test_a_redrive_says_whose_letters_it_has_brought_back(pair):
    """What a lost server holds is neither brought back nor counted as left: the answer says 1/2, and none later."""
    many, http = pair
    for number in range(12):
        http.post("/queues/r/jobs", content=b"%d" % number)
    for _ in range(12):
        lease = http.get("/queues/r/next?timeout=1").headers["lease-id"]
        assert http.post(f"/leases/{lease}/reject").status_code == 204
    at_first = many[1].stat("queue_r__dead_items")
    assert 0 < at_first < 12
    many[0].kill()
    until(lambda: shown(http)[many[0].address]["status"] == "down")
    partly = http.post("/queues/r/redrive")
    assert partly.json() == {"redriven": at_first, "expired": 0, "left": 0}
    assert partly.headers["queue-coverage"] == "1/2"
    assert http.post("/queues/r/redrive").headers["queue-coverage"] == "1/2"
    many[0].start()
    until(lambda: shown(http)[many[0].address]["status"] == "up")
    rest = http.post("/queues/r/redrive")
    assert (rest.json()["redriven"], "queue-coverage" in rest.headers) == (12 - at_first, False)


def test_zero_for_a_missing_queue_says_how_many_servers_were_asked(pair):
    """A server that does not answer may have the queue: the coverage says so."""
    many, http = pair
    assert "queue-coverage" not in http.get("/queues/unused?missing=zero").headers
    many[0].kill()
    answer = http.get("/queues/unused?missing=zero")
    assert (answer.status_code, answer.json()["backlog"], answer.headers["queue-coverage"]) == (200, 0, "1/2")
    many[1].kill()
    assert http.get("/queues/unused?missing=zero").status_code == 503


def test_a_new_queue_and_a_list_do_not_wait_for_a_frozen_server(tmp_path):
    """The cap on queues, a poll and the figures go by the servers that answer; what the frozen one has still counts."""
    flags = ("--max-queues", "3", "--kestrel-command-timeout", "20")
    with brokers(tmp_path, 2) as many, before(tmp_path, many, *flags) as gateway, gateway.client() as http:
        until(lambda: all(each["status"] == "up" for each in shown(http).values()))
        many[0].ask("get on-frozen")
        assert {each["queue"] for each in http.get("/queues").json()["queues"]} == {"on-frozen"}
        assert http.get("/queues/first/next?timeout=0").status_code == 204
        many[0].freeze()
        began = time.monotonic()
        empty = http.get("/queues/second/next?timeout=0")
        assert (empty.status_code, empty.headers["queue-coverage"]) == (204, "1/2")
        refused = http.get("/queues/third/next?timeout=0")
        assert (refused.status_code, refused.json()["code"]) == (403, "too-many-queues")
        assert time.monotonic() - began < 15
        for path in ("/queues", "/queues/first"):
            began = time.monotonic()
            assert http.get(path).headers["queue-coverage"] == "1/2"
            assert time.monotonic() - began < 15
        many[0].thaw()


def test_members_change_under_parked_polls(tmp_path):
    """The file changes and SIGHUP comes: a parked poll gets the new server's job; a lease on the old one is acked."""
    with brokers(tmp_path, 2) as (old, new), before(tmp_path, [old], *FAST) as gateway, gateway.client() as http:
        http.post("/queues/q/jobs", content=b"1")
        leased = http.get("/queues/q/next")
        answers = []
        poll = threading.Thread(target=lambda: answers.append(http.get("/queues/q/next?timeout=20")))
        poll.start()
        until(lambda: old.waiters("q") == 1)
        (tmp_path / "members").write_text(f"nonsense\n{new.address}\n")
        gateway.process.send_signal(1)
        until(lambda: "members:1:" in gateway.log.read_text())
        (tmp_path / "members").write_text(f"{new.address}\n")
        gateway.process.send_signal(1)
        until(lambda: new.waiters("q") == 1)
        found = shown(http)
        assert (found[old.address]["leaving"], found[new.address]["leaving"]) == (True, False)
        assert http.post(f"/leases/{leased.headers['lease-id']}/ack").status_code == 204
        assert http.post("/queues/q/jobs", content=b"2").status_code == 201
        poll.join()
        assert answers[0].json()["data"] == 2
        until(lambda: set(shown(http)) == {new.address})
        until(lambda: old.connections() == 0)
        assert old.stat("queue_q_items") == old.stat("queue_q_open_transactions") == 0
