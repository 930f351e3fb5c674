"""Policies on a running gateway: each key that acts does so, and SIGHUP changes them in every worker."""

import base64
import os
import signal
import socket
import time
from collections import Counter

import pytest

from gateway.envelope.times import instant
from tests.lab.gateway import running
from tests.lab.ports import free_port
from tests.lab.waiting import until
from tests.lab.workers import client_of_each

POLICIES = """
[queues."raw*"]
format = "raw"

[queues.brief]
ttl = 0.2
lease = 7

[queues.raw-brief]
format = "raw"
ttl = 1

[queues.long]
lease = 43200

[queues.small]
max_bytes = 3

[queues.large]
max_bytes = 3000000

[queues.thousand]
max_bytes = 1000

[queues.legacy]
key = "ns:legacy"
"""


@pytest.fixture(scope="module")
def memcache():
    return free_port()


@pytest.fixture(scope="module")
def shaped(tmp_path_factory, memcache):
    base = tmp_path_factory.mktemp("shaped")
    (base / "queues.toml").write_text(POLICIES)
    flags = ("--queues", str(base / "queues.toml"), "--max-lease", "100", "--broker-listen", f"127.0.0.1:{memcache}")
    with running(base / "data", *flags) as gateway:
        yield gateway


@pytest.fixture
def http(shaped):
    with shaped.client() as client:
        yield client


def command(port, line):
    """What the memcache port answers to one command."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.settimeout(10)
        connection.sendall(line)
        answer = b""
        while not answer.endswith((b"END\r\n", b"STORED\r\n")):
            chunk = connection.recv(65536)
            assert chunk, answer
            answer += chunk
        return answer


RAW = [
    (b"", None),
    (b"\x00\xff\r\nEND\r\n", None),
    (b"{", "application/json"),
    (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":"x"}', "application/cloudevents+json"),
    (b"[1,", "application/cloudevents-batch+json"),
    (b"1\n2\n", "application/x-ndjson"),
    (os.urandom(1 << 20), "image/png"),
]


@pytest.mark.parametrize(("body", "content_type"), RAW)
def test_a_raw_queue_keeps_bytes(http, memcache, body, content_type):
    """Byte for byte on the queue, in peek, in a delivery and with format=raw; never read as an envelope."""
    headers = {"content-type": content_type} if content_type else {}
    stored = http.post("/queues/raw/jobs", content=body, headers=headers)
    assert stored.status_code == 201
    assert command(memcache, b"get raw/peek\r\n") == b"VALUE raw 0 %d\r\n%b\r\nEND\r\n" % (len(body), body)
    shown = http.get("/queues/raw/peek").json()
    assert (shown["id"], shown["content_type"], base64.b64decode(shown["data_base64"])) == (
        None,
        "application/octet-stream",
        body,
    )
    taken = http.get("/queues/raw/next?format=raw")
    assert (taken.content, taken.headers["content-type"]) == (body, "application/octet-stream")
    assert http.post(f"/leases/{taken.headers['lease-id']}/nack").json() == {"position": "head"}  # no copy is made
    taken = http.get("/queues/raw/next").json()
    assert (taken["id"], base64.b64decode(taken["data_base64"]), taken["attempt"]) == (None, body, 2)
    assert http.post(taken["lease"]["url"] + "/ack").status_code == 204
    assert http.get("/queues/raw").json()["items"] == 0


def test_what_memcache_clients_put_on_a_raw_queue_is_delivered(http, memcache):
    """There an envelope of another program is bytes, too."""
    item = b'{"specversion":"1.0","id":"7","source":"s","type":"t","data":1}'
    command(memcache, b"set raw-foreign 0 0 %d\r\n%b\r\n" % (len(item), item))
    taken = http.get("/queues/raw-foreign/next").json()
    assert (taken["id"], base64.b64decode(taken["data_base64"])) == (None, item)


def test_the_policy_s_ttl_is_used_where_none_is_asked(http):
    """`ttl` of the policy, unless the request names one; a raw item expires, too."""
    http.post("/queues/brief/jobs?ttl=1000", json="asked")
    http.post("/queues/brief/jobs", json="policy")
    http.post("/queues/raw-brief/jobs", content=b"raw")
    taken = http.get("/queues/brief/next").json()
    assert taken["data"] == "asked"
    http.post(taken["lease"]["url"] + "/ack")
    until(lambda: all(is_empty(http, queue) for queue in ("brief", "raw-brief")))


def is_empty(http, queue):
    """A get drops what has expired; a job that has not is given back."""
    early = http.get(f"/queues/{queue}/next?timeout=0")
    if early.status_code == 200:
        http.post(early.json()["lease"]["url"] + "/nack")
        return False
    return http.get(f"/queues/{queue}").json()["items"] == 0


def lease_s(http, path):
    """The length of the lease that is given, about."""
    taken = http.get(path)
    lease = http.get(taken.json()["lease"]["url"]).json()
    http.post(taken.json()["lease"]["url"] + "/ack")
    begun = time.time()
    ends = time.mktime(time.strptime(lease["expires_at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    return round(ends - begun)


def test_the_policy_s_lease_is_used_where_none_is_asked(http):
    """`lease` of the policy, unless the request names one, by either name; never beyond --max-lease."""
    asked = [
        ("brief", "", 7),
        ("brief", "?lease=30", 30),
        ("brief", "?lease_seconds=30", 30),
        ("brief", "?timeout=1", 7),
    ]
    for queue, query, expected in [*asked, ("long", "", 100), ("other", "", 60)]:
        http.post(f"/queues/{queue}/jobs?ttl=1000", json=1)
        assert abs(lease_s(http, f"/queues/{queue}/next{query}") - expected) <= 2, queue


def test_the_call_with_a_body_has_the_policy_s_lease(http):
    """`leaseJobs`, too, unless the request names a length."""
    for body, expected in (({}, 7), ({"lease_seconds": 30}, 30)):
        http.post("/queues/brief/jobs?ttl=1000", json=1)
        lease = http.post("/queues/brief/leases", json={"timeout": 5, **body}).json()["lease"]
        assert abs(instant(lease["expires_at"]) - time.time() - expected) <= 2
        http.post(lease["url"] + "/ack")


def test_the_policy_s_size_holds(http):
    """`max_bytes` in place of --max-job-bytes, smaller and larger, also for each job of many."""
    assert http.post("/queues/small/jobs", content=b"1234").status_code == 413
    assert http.post("/queues/small/jobs", content=b"123").status_code == 201
    assert http.post("/queues/large/jobs", content=b"x" * 3_000_000).status_code == 201
    assert http.post("/queues/large/jobs", content=b"x" * 3_000_001).status_code == 413
    lines = {"content-type": "application/x-ndjson"}
    assert http.post("/queues/small/jobs", content=b"1\n1234\n", headers=lines).status_code == 207


def test_the_limit_of_a_job_in_a_batch_is_that_of_its_payload(http):
    """Whatever the JSON around it takes: base64, or every letter as an escape."""
    for count, status in ((1000, 201), (1001, 413)):
        whole = {"data_base64": base64.b64encode(b"\xff" * count).decode(), "content_type": "image/png"}
        assert http.post("/queues/thousand/jobs/batch", json={"jobs": [whole]}).status_code == status
        escaped = b'{"jobs": [{"content_type": "text/plain", "data": "%b"}]}' % (rb"\u0001" * count)
        headers = {"content-type": "application/json"}
        assert http.post("/queues/thousand/jobs/batch", content=escaped, headers=headers).status_code == status


def test_a_raw_queue_gets_the_payloads_of_a_batch(http):
    """Each job is an item of its own, without an envelope."""
    jobs = {"jobs": [{"data": [1]}, {"data_base64": "/wA="}]}
    assert http.post("/queues/raw-batch/jobs/batch", json=jobs).status_code == 201
    assert [http.get("/queues/raw-batch/next?format=raw").content for _ in range(2)] == [b"[1]", b"\xff\x00"]


def test_a_queue_with_a_key_of_its_own(http, memcache):
    """HTTP and memcache clients meet under that key; no request can name the queue that has its ordinary key."""
    command(memcache, b"set ns:legacy 0 0 3\r\nold\r\n")
    command(memcache, b"set legacy 0 0 5\r\nstray\r\n")
    taken = http.get("/queues/legacy/next").json()
    assert base64.b64decode(taken["data_base64"]) == b"old"
    assert http.post(taken["lease"]["url"] + "/ack").status_code == 204
    http.post("/queues/legacy/jobs", json="new")
    assert b'"data":"new"' in command(memcache, b"get ns:legacy/peek\r\n")
    listed = http.get("/queues").json()["queues"]
    names = Counter((each["queue"], each["reachable"]) for each in listed)
    assert (names["legacy", True], names["legacy", False]) == (1, 1)
    assert http.get("/queues/legacy").json()["items"] == 1
    assert http.delete("/queues/legacy").status_code == 200
    assert http.get("/queues/legacy").status_code == 404


def test_sighup_changes_the_policies_of_every_worker(tmp_path):
    """After SIGHUP both workers use the new file; an invalid file is reported, and the old policies stay."""
    file = tmp_path / "queues.toml"
    file.write_text("[queues.q]\nmax_bytes = 1\n")
    flags = ("--workers", "2", "--queues", str(file))
    with running(tmp_path / "data", *flags) as gateway, client_of_each(gateway, 2) as workers:

        def reload(text):
            file.write_text(text)
            done = gateway.log.read_text().count("reload: ended")
            gateway.process.send_signal(signal.SIGHUP)
            until(lambda: gateway.log.read_text().count("reload: ended") == done + 2)

        def statuses():
            """What both workers answer to a body of 2 bytes."""
            return {http.post("/queues/q/jobs", content=b"12").status_code for http in workers}

        assert statuses() == {413}
        reload("[queues.q]\nmax_bytes = 2\n")
        assert statuses() == {201}
        reload("[queues.q]\nmax_bytes = 0\n")
        assert statuses() == {201}
        assert gateway.log.read_text().count(f"{file}:2: queues.q.max_bytes: 0 is not") == 2
