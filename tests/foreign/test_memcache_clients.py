"""Programs that know nothing but memcache share queues with HTTP: PHP, pymemcache as it comes, and a plain socket."""

import base64
import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from pymemcache.client.base import Client

VALUE = {"to": "ada@exämple.org 😀", "n": 1.5, "big": 9007199254740991, "list": [1, None, True], "nested": {"a": ""}}
EVENT = {"specversion": "1.0", "id": "f-1", "source": "/foreign", "type": "org.example.job", "data": VALUE}
DOCS = Path(__file__).resolve().parents[2] / "docs"
CONTRACT = (DOCS / "contract.md").read_text()
VECTORS = json.loads((DOCS / "vectors" / "delivery.json").read_text())["cases"]
ENQUEUED = json.loads((DOCS / "vectors" / "enqueue.json").read_text())
WITHOUT_TENANT = [case for case in ENQUEUED["cases"] if "tenant" not in case]


def envelope(padding: int = 0) -> bytes:
    return json.dumps(EVENT | {"data": VALUE | {"padding": "x" * padding}}, ensure_ascii=False).encode()


def take(http, queue: str) -> dict:
    """The next job over HTTP, acked."""
    job = http.get(f"/queues/{queue}/next?timeout=5").json()
    assert http.post(job["lease"]["url"] + "/ack").status_code == 204
    return job


def put(http, queue: str, value=VALUE) -> str:
    return http.post(f"/queues/{queue}/jobs", json=value).json()["id"]


def raw(job: dict) -> bytes:
    assert job["id"] is None
    return base64.b64decode(job["data_base64"])


@pytest.mark.slow
def test_php_puts_envelopes(http, queue, php_client):
    """What a PHP page stores with its defaults is a job with id and data, as long as it stays uncompressed."""
    php_client("put", queue, envelope())
    job = take(http, queue)
    assert (job["id"], job["data"]) == ("f-1", VALUE | {"padding": ""})


@pytest.mark.slow
def test_php_puts_long_envelopes_with_one_option(http, queue, php_client):
    """Over 2000 bytes the defaults compress, which makes a raw item; OPT_COMPRESSION false keeps the envelope."""
    php_client("put", queue, envelope(5000))
    php_client("put", queue, envelope(5000), options="plain")
    assert len(raw(take(http, queue))) < 5000
    assert take(http, queue)["data"]["padding"] == "x" * 5000


@pytest.mark.slow
def test_php_puts_arrays(http, queue, php_client):
    """An array comes serialized, and is delivered as the bytes it is."""
    php_client("put-array", queue, b'{"to":"ada"}')
    assert raw(take(http, queue)) == b'a:1:{s:2:"to";s:3:"ada";}'


@pytest.mark.slow
@pytest.mark.parametrize("options", ["default", "plain"])
def test_php_reads_what_http_put(http, queue, php_client, options):
    """A PHP page takes a string that decodes to the same value, short or long."""
    for value in (VALUE, VALUE | {"padding": "x" * 5000}):
        job_id = put(http, queue, value)
        found = php_client("get", queue, options=options)
        assert (found["type"], found["event"]["id"], found["event"]["data"]) == ("string", job_id, value)


@pytest.mark.slow
@pytest.mark.parametrize("settle", ["close", "abort"])
def test_php_works_as_documented(shared, http, queue, php, settle):
    """The code of docs/contract.md puts a job and takes it reliably."""
    code = re.search(r"```php\n(.*?)```", CONTRACT, re.DOTALL)[1]
    assert "$queue->get('emails/close')" in code
    code = code.replace("22133", str(shared.port)).replace("/close", f"/{settle}").replace("emails", queue)
    done = subprocess.run([php, "-r", code + "echo json_encode($job);"], capture_output=True, timeout=30)
    event = json.loads(done.stdout)
    assert event["data"] == {"to": "ada@example.org"}
    if settle == "abort":
        assert take(http, queue)["id"] == event["id"]
    assert http.get(f"/queues/{queue}").json()["items"] == 0


def test_pymemcache_works_as_it_comes(shared, http, queue):
    """Envelope and raw bytes in, the same job and bytes out; HTTP's jobs parse to the same value."""
    client = Client(("127.0.0.1", shared.port), timeout=10)
    assert client.set(queue, envelope(), noreply=False)
    assert client.set(queue, b"\x80\x04N.", noreply=False)
    assert take(http, queue)["data"]["to"] == VALUE["to"]
    assert raw(take(http, queue)) == b"\x80\x04N."
    job_id = put(http, queue)
    event = json.loads(client.get(queue))
    assert (event["id"], event["data"]) == (job_id, VALUE)
    client.close()


@pytest.mark.parametrize("settle", ["close", "abort"])
def test_pymemcache_works_as_documented(shared, http, queue, settle):
    """The code of docs/contract.md takes a job reliably; stock pymemcache cannot."""
    code = re.search(r"```python\n(.*?)```", CONTRACT, re.DOTALL)[1]
    assert 'queues.get("emails/close")' in code
    code = code.replace("22133", str(shared.port)).replace("/close", f"/{settle}").replace("emails", queue)
    found = {}
    exec(compile(code, "contract.md", "exec"), found)
    assert found["job"] == found["event"]
    found["queues"].close()
    if settle == "abort":
        assert take(http, queue)["data"] == found["event"]["data"]
    assert http.get(f"/queues/{queue}").json()["items"] == 0
    job_id = put(http, queue)
    stock = Client(("127.0.0.1", shared.port), timeout=10)
    with pytest.raises(KeyError):
        stock.get(f"{queue}/open")
    stock.close()
    assert take(http, queue)["id"] == job_id


def test_a_plain_socket_is_enough(http, queue, wire):
    """The same with nothing but a socket and reliable reads."""
    wire.put(queue, envelope())
    wire.put(queue, b"END\r\n\x00")
    assert take(http, queue)["id"] == "f-1"
    assert raw(take(http, queue)) == b"END\r\n\x00"
    job_id = put(http, queue)
    event = json.loads(wire.take(queue))
    assert (event["id"], event["attempt"], event["data"]) == (job_id, 1, VALUE)
    assert wire.take(queue, wait_ms=0) is None


@pytest.mark.parametrize("case", VECTORS, ids=[each["name"] for each in VECTORS])
def test_every_vector_on_a_live_queue(http, queue, wire, case):
    """Whatever is on a queue is shown, delivered in both forms and acked, as docs/vectors/delivery.json says."""
    item = base64.b64decode(case["item_base64"]) if "item_base64" in case else case["item"].encode()
    payload = base64.b64decode(case["bytes_base64"]) if "bytes_base64" in case else case["bytes"].encode()
    wire.put(queue, item)
    assert http.get(f"/queues/{queue}/peek").json() == case["object"] | {"queue": queue}
    job = http.get(f"/queues/{queue}/next?timeout=5").json()
    assert {name: value for name, value in job.items() if name != "lease"} == case["object"] | {"queue": queue}
    assert http.post(job["lease"]["url"] + "/nack").is_success
    for accept in ("application/cloudevents+json", "application/octet-stream"):
        answer = http.get(f"/queues/{queue}/next?timeout=5", headers={"accept": accept})
        assert answer.status_code == 200
        assert http.post(answer.headers["location"] + "/nack").is_success
    answer = http.get(f"/queues/{queue}/next?timeout=5&format=raw")
    assert (answer.content, answer.headers["content-type"]) == (payload, case["content_type"])
    assert answer.headers["ce-attempt"] == str(case["object"]["attempt"] + 3)
    assert http.post(answer.headers["location"] + "/ack").status_code == 204
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


@pytest.mark.parametrize("case", WITHOUT_TENANT, ids=[each["name"] for each in WITHOUT_TENANT])
def test_every_request_of_the_vectors(http, queue, wire, case):
    """What docs/vectors/enqueue.json asks for can be asked today: the item is as it says, times and ids apart."""
    request = case["request"]
    body = base64.b64decode(request["body_base64"]) if "body_base64" in request else request["body"].encode()
    asked = http.post(f"/queues/{queue}/jobs", content=body, params=request.get("query"), headers=request["headers"])
    assert asked.status_code == 201
    item = wire.take(queue).decode()
    stored = json.loads(item)
    now = f'"enqueued":"{stored["enqueued"]}"'
    expected = case["item"].replace(ENQUEUED["id"], stored["id"]).replace("/queues/emails", f"/queues/{queue}")
    expected = expected.replace(f'"enqueued":"{ENQUEUED["now"]}"', now).replace(ENQUEUED["now"], stored["time"])
    if "query" in request:
        expected = re.sub('"expires":"[^"]+"', f'"expires":"{stored["expires"]}"', expected)
    assert item == expected


def test_a_raw_item_of_4_mib(http, queue, wire):
    """Larger than any job that HTTP may put, and still delivered, byte for byte, and acked."""
    item = bytes(range(256)) * (4 << 12)
    wire.put(queue, item)
    answer = http.get(f"/queues/{queue}/next?timeout=5")
    assert raw(answer.json()) == item
    assert http.post(answer.json()["lease"]["url"] + "/nack").is_success
    answer = http.get(f"/queues/{queue}/next?timeout=5&format=raw")
    assert answer.content == item
    assert http.post(answer.headers["location"] + "/ack").status_code == 204


def test_attempts_of_raw_items_are_counted(http, queue, wire):
    """A raw item that comes back says so, and an ack ends the count for the next item with the same bytes."""
    wire.put(queue, b"raw")
    for attempt in (1, 2, 3):
        job = http.get(f"/queues/{queue}/next?timeout=5").json()
        assert job["attempt"] == attempt
        settle = "ack" if attempt == 3 else "nack"
        assert http.post(f"{job['lease']['url']}/{settle}").is_success
    wire.put(queue, b"raw")
    assert take(http, queue)["attempt"] == 1


def test_an_event_that_is_over_is_dropped(http, queue, wire):
    """The envelope's `expires` applies where Kestrel was given no expiry, and the wait goes on to the next job."""
    for expires in ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00", "2099-01-01T00:00:00Z"):
        wire.put(queue, json.dumps(EVENT | {"expires": expires}).encode())
    assert take(http, queue)["attributes"]["expires"] == "2099-01-01T00:00:00Z"
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_a_job_that_is_over_is_not_shown(http, queue, wire):
    """A peek at one finds nothing, as the next poll would, and shows a job whose time is to come."""
    wire.put(queue, json.dumps(EVENT | {"expires": "2020-01-01T00:00:00Z"}).encode())
    answer = http.get(f"/queues/{queue}/peek")
    assert (answer.status_code, answer.json()["code"]) == (404, "queue-empty")
    assert http.get(f"/queues/{queue}").json()["items"] == 1
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    wire.put(queue, json.dumps(EVENT | {"expires": "2099-01-01T00:00:00Z"}).encode())
    assert http.get(f"/queues/{queue}/peek").json()["id"] == EVENT["id"]


@pytest.mark.alone
def test_many_jobs_that_are_over_do_not_hold_a_short_poll(http, queue, wire):
    """`timeout=0` answers after a second of dropping at most; longer polls drop as long as they wait."""
    over = json.dumps(EVENT | {"expires": "2020-01-01T00:00:00Z"}).encode()
    count = 2500
    wire.put_all(queue, [*[over] * count, envelope()])
    began_s = time.monotonic()
    answer = http.get(f"/queues/{queue}/next?timeout=0")
    assert time.monotonic() - began_s < 1.5
    assert answer.status_code == 200 or http.get(f"/queues/{queue}").json()["items"] < count
    if answer.status_code == 204:
        assert http.get(f"/queues/{queue}/next?timeout=20").json()["data"] == VALUE | {"padding": ""}


def test_the_wire_carries_the_ttl(http, queue, wire):
    """Memcache clients do not get a job whose ttl is over either: Kestrel drops it itself, a second later at most."""
    http.post(f"/queues/{queue}/jobs?ttl=0.1", json=1)
    http.post(f"/queues/{queue}/jobs?ttl=100", json=2)
    assert http.get(f"/queues/{queue}").json()["items"] == 2
    deadline_s = time.monotonic() + 60
    while http.get(f"/queues/{queue}/peek").json().get("data") != 2:
        assert time.monotonic() < deadline_s, "Kestrel keeps it"
        time.sleep(0.02)
    assert json.loads(wire.take(queue))["data"] == 2
