"""Settling over HTTP: nack with position, delay and reason, reject, many at once, ack-and-next, through any worker."""

import concurrent.futures
import json
import socket
import time

import pytest

from tests.api.keyring import Keyring
from tests.api.test_leases import take
from tests.lab import plain
from tests.lab.gateway import Running, running
from tests.lab.http import HttpClient
from tests.lab.ledger import check, final_counts
from tests.lab.ports import free_port
from tests.lab.waiting import until
from tests.lab.workers import client_of_each

pytestmark = pytest.mark.usefixtures("ledger_balances")

BRIEF = ("--grace", "0.3")
"""For leases that are open when the gateway stops: these tests do not settle them."""


def balanced(gateway: Running) -> dict[str, int]:
    """Stops the gateway and returns the ledger of its only worker, which must balance."""
    assert gateway.stop() == 0
    (ledger,) = final_counts(gateway.log.read_text())
    assert ledger["open"] == 0
    return ledger


@pytest.fixture(scope="module")
def broker_port():
    return free_port()


@pytest.fixture(scope="module")
def settling(tmp_path_factory, broker_port):
    """A gateway of its own, whose counts are looked at in the end."""
    flags = ("--broker-listen", f"127.0.0.1:{broker_port}", *BRIEF)
    with running(tmp_path_factory.mktemp("settling") / "data", *flags) as gateway:
        yield gateway
        ledger = balanced(gateway)
        assert all(ledger[way] > 0 for way in ("acked", "nacked", "rejected", "expired", "drained", "deleted")), ledger


@pytest.fixture
def http(settling):
    with settling.client() as client:
        yield client


@pytest.fixture
def memcache(settling, broker_port):
    """Sends one command to the broker and reads one line."""
    with socket.create_connection(("127.0.0.1", broker_port), 10) as connection:
        lines = connection.makefile("rb")

        def ask(command: bytes) -> bytes:
            connection.sendall(command)
            return lines.readline()

        yield ask
        lines.close()


@pytest.fixture
def lease(http, queue):
    """A lease's path."""
    http.post(f"/queues/{queue}/jobs", json="work")
    return take(http, queue)["lease"]["url"]


def enqueue(http, queue, *jobs):
    """In one request."""
    lines = "\n".join(map(json.dumps, jobs))
    answer = http.post(f"/queues/{queue}/jobs", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 201, answer.text


def test_a_nack_puts_the_job_behind_the_others(http, queue):
    """Without options and with them; the job carries the reason, and the nack may be repeated."""
    enqueue(http, queue, 1, 2)
    first = take(http, queue)
    for _ in range(2):
        assert http.post(first["lease"]["url"] + "/nack", json={"reason": "späte\nPost"}).status_code == 204
    assert http.get(first["lease"]["url"]).json()["position"] == "tail"
    second = take(http, queue)
    assert second["data"] == 2
    assert http.post(second["lease"]["url"] + "/nack", json={"position": "tail"}).status_code == 204
    again = take(http, queue)
    assert (again["id"], again["attempt"], again["attributes"]["lasterror"]) == (first["id"], 2, "späte Post")
    assert again["enqueued_at"] == first["enqueued_at"]
    assert "lasterror" not in take(http, queue)["attributes"]


def test_a_nack_to_the_head_is_before_the_others(http, queue):
    """204, and the same job is the next one."""
    enqueue(http, queue, 1, 2)
    assert http.post(take(http, queue)["lease"]["url"] + "/nack", json={"position": "head"}).status_code == 204
    assert [take(http, queue)["data"] for _ in range(2)] == [1, 2]


def test_a_nack_that_asks_for_another_place_is_told_where_the_job_is(http, queue):
    """It moves nothing: 200 with the place, whichever way round; one that names no place is a repeat."""
    enqueue(http, queue, 1, 2)
    for done, other in (("head", "tail"), ("tail", "head")):
        path = take(http, queue)["lease"]["url"] + "/nack"
        assert http.post(path, json={"position": done}).status_code == 204
        answer = http.post(path, json={"position": other, "delay": 600})
        assert (answer.status_code, answer.json()) == (200, {"position": done})
        assert http.post(path).status_code == http.post(path, json={"position": done}).status_code == 204
    assert [take(http, queue)["data"] for _ in range(2)] == [2, 1]


def test_a_delayed_nack_says_when_it_is_due(http, queue, lease):
    """Until then nobody gets the job; then it is there. A repeated nack gets the same answer before and after that."""
    body = {"delay": 0.6, "position": "head"}
    began = time.monotonic()
    answer = http.post(lease + "/nack", json=body)
    assert (answer.status_code, answer.json()["position"]) == (200, "tail"), "a job that waits comes to the tail"
    assert http.post(lease + "/nack", json=body).json() == answer.json()
    shown = http.get(lease).json()
    assert (shown["state"], shown["expires_at"]) == ("delayed", answer.json()["due_at"])
    for other in ("ack", "reject"):
        assert http.post(f"{lease}/{other}").json()["code"] == "lease-settled"
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    assert take(http, queue)["attempt"] == 2
    assert time.monotonic() - began > 0.5
    assert http.post(lease + "/nack", json=body).json() == answer.json()
    assert http.get(lease).json()["state"] == "nacked"


def test_a_nack_that_could_not_copy_says_where_the_job_is(http, queue, memcache):
    """An item that no gateway stored is not copied: 200, and its position is the head; the same when repeated."""
    for item in (b"first", b"second"):
        memcache(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(item), item))
    taken = take(http, queue)
    for _ in range(2):
        answer = http.post(taken["lease"]["url"] + "/nack")
        assert (answer.status_code, answer.json()) == (200, {"position": "head"})
    again = take(http, queue)
    assert (again["data_base64"], again["attempt"]) == (taken["data_base64"], 2)
    assert http.post(again["lease"]["url"] + "/nack", json={"position": "head"}).status_code == 204


def test_an_expired_lease_is_behind_the_others(http, queue):
    """Its job is the second one then, and says so."""
    enqueue(http, queue, 1, 2)
    first = take(http, queue, lease=1)
    until(lambda: http.get(first["lease"]["url"]).json()["state"] == "expired")
    second, again = take(http, queue), take(http, queue)
    assert (second["data"], again["data"], again["attempt"]) == (2, 1, 2)
    assert again["attributes"]["lasterror"] == "the lease expired"


def test_a_reject_ends_the_job(http, queue, lease):
    """204 again and again; it is on no queue that consumers see, and other settlements conflict."""
    for _ in range(2):
        assert http.post(lease + "/reject", json={"reason": "no use"}).status_code == 204
    assert http.post(lease + "/ack").json()["code"] == "lease-settled"
    shown = http.get(lease).json()
    assert (shown["state"], shown["position"]) == ("rejected", "dead")
    assert http.get(f"/queues/{queue}/next?timeout=0.2").status_code == 204
    assert queue + "__dead" not in http.get("/queues").text


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nack", None, 204),
        ("nack", {"position": None, "delay": None, "reason": None}, 204),
        ("reject", None, 204),
        ("reject", {"reason": None}, 204),
        ("extend", {"lease_seconds": 5, "lease": None}, 200),
    ],
)
def test_null_counts_as_absent(http, lease, path, body, status):
    """Serializers of many languages write what is absent as null, a whole body, too."""
    assert http.post(f"{lease}/{path}", content=json.dumps(body)).status_code == status


def test_null_counts_as_absent_in_every_settlement(http, queue):
    """Lists that are null, and members of their objects."""
    for _ in range(2):
        http.post(f"/queues/{queue}/jobs", json={})
    nacked, rejected = (take(http, queue)["lease"]["id"] for _ in range(2))
    nack = {"lease": nacked, "position": None, "delay": None, "reason": None}
    answer = http.post("/leases/settle", json={"acks": None, "nacks": [nack], "rejects": None})
    assert (answer.status_code, len(answer.json()["results"])) == (200, 1)
    reject = {"lease": rejected, "reason": None}
    answer = http.post("/leases/settle", json={"acks": None, "nacks": None, "rejects": [reject]})
    assert [each["status"] for each in answer.json()["results"]] == [204]
    for wrong in (b"null", b'{"nacks": [null]}', b'{"nacks": [{"lease": null}]}'):
        assert http.post("/leases/settle", content=wrong).status_code == 400
    assert http.post(f"/queues/{queue}/redrive", content=b'{"max": null}').json()["redriven"] == 1
    assert http.post(f"/queues/{queue}/redrive", content=b"null").status_code == 200


def test_a_bad_settlement_settles_nothing(http, lease):
    """What the contract does not describe is a 400, and the lease is held as before."""
    for path, body in [
        ("nack", {"position": "dead"}),
        ("nack", {"delay": -1}),
        ("nack", {"delay": 2592001}),
        ("nack", {"delay": "5"}),
        ("nack", {"delay": True}),
        ("nack", {"reason": 5}),
        ("reject", {"delay": 5}),
        ("reject", {"reason": ["no"]}),
        ("reject", []),
    ]:
        answer = http.post(f"{lease}/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body"), body
        assert http.get(lease).json()["state"] == "held", body


TRACE = "Traceback (most recent call last):\n" + '  File "work.py", line 1, in work\n' * 25_000 + "OSError: disk full"


def assert_cut(error):
    assert error.startswith("Traceback (most recent call last):   File")
    assert error.endswith("OSError: disk full")
    assert f"cut, {len(TRACE)} characters in all" in error
    assert len(error) <= 1000


def test_a_failure_report_of_any_length_is_taken(http, queue):
    """Within the body's limit; stored is its beginning and its end, and that it was cut."""
    enqueue(http, queue, 1)
    job = take(http, queue)
    assert http.post(job["lease"]["url"] + "/nack", json={"reason": TRACE}).status_code == 204
    job = take(http, queue)
    assert_cut(job["attributes"]["lasterror"])
    body = {"nacks": [{"lease": job["lease"]["id"], "reason": "y" * 1001}]}
    assert http.post("/leases/settle", json=body).json()["results"][0]["status"] == 204
    job = take(http, queue)
    assert "cut, 1001 characters in all" in job["attributes"]["lasterror"]
    assert http.post(job["lease"]["url"] + "/reject", json={"reason": TRACE}).status_code == 204
    assert_cut(http.get(f"/queues/{queue}/dead-letters/peek").json()["attributes"]["lasterror"])
    http.post(f"/queues/{queue}/redrive")
    job = take(http, queue)
    body = {"rejects": [{"lease": job["lease"]["id"], "reason": TRACE}]}
    assert http.post("/leases/settle", json=body).json()["results"][0]["status"] == 204
    assert_cut(http.get(f"/queues/{queue}/dead-letters/peek").json()["attributes"]["lasterror"])


def test_a_failure_report_over_the_body_s_limit_settles_nothing(http, lease):
    """413 says so."""
    answer = http.post(lease + "/nack", json={"reason": "x" * (1 << 20)})
    assert (answer.status_code, answer.json()["code"]) == (413, "job-too-large")
    assert answer.json()["title"] == "The body is too large"
    assert answer.json()["detail"].startswith("the body has 10")
    assert answer.json()["detail"].endswith(" bytes, which is above the maximum of 1048576")
    assert http.get(lease).json()["state"] == "held"


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (b'\xef\xbb\xbf{"reason": "from an editor"}', "from an editor"),
        (b'{"reason": "cut in an emoji \\ud83d"}', "cut in an emoji ?"),
        (b'{"reason": "an emoji \\ud83d\\ude00"}', "an emoji \U0001f600"),
    ],
)
def test_a_failure_report_is_taken_as_programs_write_it(http, queue, lease, body, stored):
    """With a byte-order mark; with half an emoji, as strings have that were cut by length in JavaScript."""
    assert http.post(lease + "/nack", content=body).status_code == 204
    assert take(http, queue)["attributes"]["lasterror"] == stored


def test_many_are_settled_each_by_itself(http, queue):
    """One result each in the order of the body; 207 where one fails; the same again is the same again."""
    enqueue(http, queue, *range(6))
    leases = [take(http, queue)["lease"]["id"] for _ in range(6)]
    body = {
        "acks": leases[:2],
        "nacks": [{"lease": leases[2]}, {"lease": leases[3], "position": "head"}, {"lease": leases[4], "delay": 600}],
        "rejects": [{"lease": leases[5], "reason": "no"}],
    }
    answers = [http.post("/leases/settle", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    results = answers[0].json()["results"]
    assert answers[1].json()["results"] == results
    assert [each["lease"] for each in results] == leases
    assert [each["status"] for each in results] == [204, 204, 204, 204, 200, 204]
    assert (results[4]["position"], "due_at" in results[4]) == ("tail", True)
    answer = http.post("/leases/settle", json={"acks": [leases[2], "nonsense", leases[0], leases[0]]})
    assert answer.status_code == 207
    assert [(each["status"], each.get("code")) for each in answer.json()["results"]] == [
        (409, "lease-settled"),
        (404, "lease-not-found"),
        (204, None),
        (204, None),
    ]
    assert [take(http, queue)["data"] for _ in range(2)] == [3, 2]
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_contrary_settlements_of_one_lease_in_one_request(http, lease):
    """The first one of them counts, the others conflict."""
    lease_id = lease.rpartition("/")[2]
    body = {"acks": [lease_id], "nacks": [{"lease": lease_id}], "rejects": [{"lease": lease_id}]}
    answer = http.post("/leases/settle", json=body)
    assert [each["status"] for each in answer.json()["results"]] == [204, 409, 409]


def test_hundreds_are_settled_at_once(settling, http, queue):
    """Every job that is acked is gone, every other one is back."""
    enqueue(http, queue, *range(200))
    consumer = HttpClient(settling.port, 10)
    leases = [consumer.ask("GET", f"/queues/{queue}/next?timeout=0").headers["lease-id"] for _ in range(200)]
    consumer.close()
    answer = http.post(
        "/leases/settle", json={"acks": leases[:150], "nacks": [{"lease": each} for each in leases[150:]]}
    )
    assert answer.status_code == 200
    assert {each["status"] for each in answer.json()["results"]} == {204}
    figures = http.get(f"/queues/{queue}").json()
    assert (figures["items"], figures["open_reads"]) == (50, 0)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"acks":"x"}', b'{"acks":[1]}', b'{"nacks":[{}]}', b'{"nacks":[{"lease":"a","x":1}]}']
)
def test_a_bad_request_settles_nothing_at_all(http, body):
    """A body that cannot be understood is a 400 as a whole."""
    answer = http.post("/leases/settle", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")


def test_a_request_has_between_none_and_ten_thousand_leases(http):
    """None is fine; one more is a 400."""
    assert http.post("/leases/settle", json={}).json() == {"results": []}
    assert http.post("/leases/settle", json={"acks": ["x"] * 10_001}).status_code == 400


def test_ack_and_next_in_one_request(http, queue):
    """The job in hand is gone, the next one is there; where there is none, the ack counts all the same."""
    enqueue(http, queue, 1, 2)
    first = take(http, queue)
    answer = http.get(f"/queues/{queue}/next", params={"ack": first["lease"]["id"]})
    assert (answer.status_code, answer.json()["data"], answer.headers["lease-acked"]) == (200, 2, "true")
    assert http.get(first["lease"]["url"]).json()["state"] == "acked"
    second = answer.json()
    answer = http.get(f"/queues/{queue}/next", params={"ack": second["lease"]["id"], "timeout": 0})
    assert (answer.status_code, answer.headers["lease-acked"]) == (204, "true")
    assert "lease-acked" not in http.get(f"/queues/{queue}/next?timeout=0").headers


def test_a_repeated_ack_and_next_takes_another_job(http, queue):
    """The ack may be repeated, so the second request is as good as the first."""
    enqueue(http, queue, 1, 2, 3)
    first = take(http, queue)["lease"]["id"]
    taken = [http.get(f"/queues/{queue}/next?timeout=5&ack={first}").json() for _ in range(2)]
    assert [each["data"] for each in taken] == [2, 3]
    assert {http.post(each["lease"]["url"] + "/ack").status_code for each in taken} == {204}


def test_preference_applied_says_that_a_nack_is_answered_as_preferred(http, queue):
    """A delayed nack has something to say, whatever is preferred."""
    for prefer, order, status, applied in (
        ("return=minimal", {}, 204, "return=minimal"),
        ("return=representation", {}, 200, "return=representation"),
        ("return=minimal", {"delay": 0.1}, 200, None),
        ("return=representation", {"delay": 0.1}, 200, "return=representation"),
        ("handling=strict", {}, 204, None),
    ):
        enqueue(http, queue, 1)
        url = take(http, queue)["lease"]["url"]
        answer = http.post(url + "/nack", json=order, headers={"prefer": prefer})
        assert (answer.status_code, answer.headers.get("preference-applied")) == (status, applied), (prefer, order)
        again = http.get(f"/queues/{queue}/next?timeout=5").json()["lease"]["url"]
        assert http.post(again + "/ack").status_code == 204


def test_an_ack_that_fails_takes_no_job(http, queue, lease):
    """Its own status is the answer, and the waiting job stays."""
    enqueue(http, queue, "stays")
    lease_id = lease.rpartition("/")[2]
    http.post(lease + "/nack", json={"position": "head"})
    taken = take(http, queue)
    for ack, status in ((lease_id, 409), ("x" * 56, 404), ("x", 400), ("", 400)):
        answer = http.get(f"/queues/{queue}/next", params={"ack": ack, "timeout": 0})
        assert (answer.status_code, "lease-acked" in answer.headers) == (status, False)
    assert http.get(f"/queues/{queue}").json()["items"] == 1
    # A request that is wrong in another way does not ack either.
    for wrong in ({"timeout": "x"}, {"lease": 0}, {"nosuch": 1}):
        assert http.get(f"/queues/{queue}/next", params={"ack": taken["lease"]["id"], **wrong}).status_code == 400
    assert http.get("/queues/a__b/next", params={"ack": taken["lease"]["id"]}).status_code == 400
    assert http.get(taken["lease"]["url"]).json()["state"] == "held"


def test_trouble_after_the_ack_says_that_it_counts(tmp_path):
    """No room for another lease: a 503 with the time until there is, and with `Lease-Acked`."""
    with running(tmp_path / "data", "--max-leases", "2", *BRIEF) as gateway, gateway.client() as http:
        enqueue(http, "q", 1, 2, 3, 4)
        first, second = take(http, "q", lease=7), take(http, "q", lease=2)
        full = http.get("/queues/q/next")
        assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "too-many-leases", "2")
        answer = http.get("/queues/q/next", params={"ack": first["lease"]["id"]})
        assert (answer.status_code, answer.json()["data"]) == (200, 3)
        http.delete("/queues/q")
        assert http.get("/queues/q/next", params={"ack": second["lease"]["id"]}).status_code == 410
        ledger = balanced(gateway)
        assert (ledger["acked"], ledger["deleted"]) == (1, 2)


def test_a_server_at_its_cap_is_told_and_gives_jobs_again(tmp_path):
    """No room on the only server: 503 with the time until a lease ends; a poll that was parked gets the room."""
    with running(tmp_path / "data", "--max-server-leases", "1", *BRIEF) as gateway, gateway.client() as http:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            parked = threads.submit(lambda: take(http, "other"))
            until(lambda: parked_polls(http, "other"))
            enqueue(http, "q", 1, 2)
            first = take(http, "q", lease=7)
            for timeout in (0, 20):
                full = http.get("/queues/q/next", params={"timeout": timeout})
                assert (full.status_code, full.json()["code"]) == (503, "too-many-leases")
                assert full.headers["retry-after"] in {"6", "7"}
            (backend,) = http.get("/backends").json()["backends"]
            assert (backend["full"], backend["connections"]["pinned"]) == (True, 1)
            assert http.get("/readyz").status_code == 200
            enqueue(http, "other", 3)
            http.post(first["lease"]["url"] + "/ack")
            assert parked.result(10)["data"] == 3


def parked_polls(http, queue):
    """How many gets wait on the queue."""
    answer = http.get(f"/queues/{queue}")
    return answer.json()["waiters"] if answer.status_code == 200 else 0


def test_any_worker_carries_out_any_settlement(tmp_path):
    """With three workers and a lease at each: delays, rejects, reasons and positions arrive through the others."""
    with running(tmp_path / "data", "--workers", "3", *BRIEF) as gateway:
        with client_of_each(gateway, 3) as clients:
            enqueue(clients[0], "q", *range(9))
            for number in range(9):
                at = number % 3
                others = clients[at + 1 :] + clients[:at]
                lease = take(clients[at], "q")["lease"]
                if number < 3:
                    body = {"delay": 0.5, "reason": "r"}
                    answers = [http.post(lease["url"] + "/nack", json=body) for http in (*others, clients[at])]
                    assert {answer.status_code for answer in answers} == {200}
                    assert answers[0].json() == answers[1].json() == answers[2].json()
                elif number < 6:
                    assert others[number % 2].post(lease["url"] + "/reject", json={"reason": "r"}).status_code == 204
                else:
                    settled = others[number % 2].post("/leases/settle", json={"acks": [lease["id"]]})
                    assert settled.json()["results"][0]["status"] == 204
            again = [take(http, "q") for http in clients]
            assert sorted(job["data"] for job in again) == [0, 1, 2]
            assert {(job["attempt"], job["attributes"]["lasterror"]) for job in again} == {(2, "r")}
            for job, other in zip(again, clients[1:] + clients[:1], strict=True):
                assert other.post(job["lease"]["url"] + "/ack").status_code == 204
            assert clients[0].post("/queues/q/redrive").json() == {"redriven": 3, "expired": 0, "left": 0}
        assert gateway.stop() == 0
        assert len(final_counts(gateway.log.read_text())) == 3


def test_leases_that_stand_when_the_gateway_stops_are_counted(settling, http, queue):
    """One held, one delayed: both jobs are back (the module's end looks at the counts), one queue is deleted."""
    enqueue(http, queue, 1, 2, 3)
    held, delayed, _ = (take(http, queue) for _ in range(3))
    assert http.post(delayed["lease"]["url"] + "/nack", json={"delay": 600}).status_code == 200
    enqueue(http, queue + "x", 1)
    take(http, queue + "x")
    assert http.delete(f"/queues/{queue}x").json()["leases_ended"] == 1
    assert http.get(held["lease"]["url"]).json()["state"] == "held"


def test_a_tenant_s_cap_leaves_room_for_others(tmp_path):
    """One tenant's leases are capped by themselves; another tenant can neither settle nor inspect them."""
    keyring = Keyring(tmp_path / "keys.toml")
    keyring.add("ann", "acme")
    keyring.add("eve", "evil")
    keyring.add("op", scopes="operator")
    with running(tmp_path / "data", "--keys", str(keyring.path), "--max-tenant-leases", "1") as gateway:
        with keyring.client(gateway, "ann") as ann, keyring.client(gateway, "eve") as eve:
            for http in (ann, eve):
                enqueue(http, "q", 1, 2)
            url = take(ann, "q", lease=5)["lease"]["url"]
            full = ann.get("/queues/q/next")
            assert (full.status_code, full.headers["retry-after"]) == (503, "5")
            assert take(eve, "q")["data"] == 1
            for call in ("nack", "reject", "ack"):
                assert eve.post(f"{url}/{call}").json()["code"] == "lease-not-found"
            lease = url.rpartition("/")[2]
            answer = eve.post("/leases/settle", json={"acks": [lease], "rejects": [{"lease": lease}]})
            assert [each["code"] for each in answer.json()["results"]] == ["lease-not-found"] * 2
            assert eve.get("/queues/q/next", params={"ack": lease}).json()["code"] == "lease-not-found"
            assert ann.post(url + "/reject").status_code == 204
            assert eve.post("/queues/q/redrive").json()["redriven"] == 0
            assert ann.post("/queues/q/redrive").json()["redriven"] == 1
        check(gateway, keyring.bearer("op"))


def test_a_settlement_s_connection_is_fit_for_use(settling, http, queue):
    """After nacks, rejects and redrives by the dozen the pool answers as before, with nothing set aside."""
    enqueue(http, queue, *range(12))
    for _ in range(12):
        job = take(http, queue)
        assert http.post(job["lease"]["url"] + ("/reject" if job["data"] % 2 else "/nack")).status_code == 204
    assert http.post(f"/queues/{queue}/redrive").json()["redriven"] == 6
    found = []
    with plain.client(base_url=settling.url) as other:
        for _ in range(12):
            job = take(other, queue)
            found.append(job["data"])
            assert other.post(job["lease"]["url"] + "/ack").status_code == 204
    assert sorted(found) == list(range(12))
    until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
