"""No single request holds the event loop for more than 20 ms, whatever it asks: measured against a calibrated loop."""

import base64
import contextlib
import itertools
import json
import socket
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.hold.worker import Worker, reference_s
from tests.lab import plain
from tests.lab.broker import BrokerProcess
from tests.lab.http import HttpClient

MIB = 1 << 20
EMPTIES = b"[" + b"[]," * ((MIB - 4) // 3 - 1) + b"[]]"
EVENT = b'{"specversion":"1.0","id":"1","source":"s","type":"t"%b}'
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
LINES = {"Content-Type": "application/x-ndjson"}
LONG = (pytest.mark.slow, pytest.mark.alone)
"""Of what comes near the limit: only on a quiet machine do a few tries show that the limit is kept."""
FEW, MANY = 1000, 5000
FLOODS = (150, pytest.param(600, marks=LONG))
LEASES = (80, pytest.param(300, marks=LONG))
POLLS = (100, pytest.param(400, marks=LONG))
HEADER_S = 2
TRIES = 12
NUMBERS = itertools.count()


@contextlib.contextmanager
def broker_of(count, folder):
    """A broker with so many queues."""
    with BrokerProcess(folder / "data", "--fsync", "off") as started:
        client = started.client(timeout_s=60)
        for start in range(0, count, 100):
            names = [f"{number:05d}{'a' * 58}b" for number in range(start, start + 100)]
            client.send(b"".join(b"set %b 0 0 1\r\n1\r\n" % name.encode() for name in names))
            assert client.read(100 * len(b"STORED\r\n")) == b"STORED\r\n" * 100
        yield started


@contextlib.contextmanager
def worker_of(broker, folder):
    """A worker that has done what is done once, at the first request."""
    settings = {"log_level": "error", "kestrel_command_timeout_s": 60}  # the loop is held for seconds
    started = Worker(folder, f"127.0.0.1:{broker.port}", **settings)
    with started.client() as http:
        http.get("/queues", params={"limit": 1}).raise_for_status()
        http.post("/queues/warm/jobs", json=1).raise_for_status()
    yield started
    started.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with broker_of(FEW, tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def worker(broker, tmp_path_factory):
    with worker_of(broker, tmp_path_factory.mktemp("worker")) as started:
        yield started


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A worker in front of thousands of queues."""
    with broker_of(MANY, tmp_path_factory.mktemp("full")) as broker:
        with worker_of(broker, tmp_path_factory.mktemp("crowded")) as started:
            yield started


@pytest.fixture(scope="module")
def hurried(tmp_path_factory):
    """A worker whose connections have little time to send a head."""
    folder = tmp_path_factory.mktemp("hurried")
    with BrokerProcess(folder / "broker", "--fsync", "off") as broker:  # the other one's queues would all be read
        started = Worker(folder / "worker", f"127.0.0.1:{broker.port}", log_level="error", header_timeout_s=HEADER_S)
        yield started
        started.close()


@pytest.fixture
def quick(worker, quick_of):
    """`quick_of` the worker of this module."""
    return partial(quick_of, worker)


@pytest.fixture(scope="module")
def quick_of():
    """Runs what is given to it, and fails where that held the worker's loop for longer than the reference. What other
    processes do to the caches only ever adds to the time, so the shortest of some tries counts. The reference is
    measured each time, but not for what takes less than half of the shortest one."""
    certainly_s = min(reference_s() for _ in range(3)) / 2

    def run(worker, request):
        tries = []
        for _ in range(TRIES):
            with worker.held() as held:
                request()
            if held[0] < certainly_s:
                return
            tries.append((held[0], reference_s()))
            if held[0] < tries[-1][1]:
                return
        told = ", ".join(f"{held_s * 1000:.1f} ms where 20 ms are {limit_s * 1000:.1f}" for held_s, limit_s in tries)
        raise AssertionError(f"the loop was held for {told}")

    return run


@pytest.fixture
def http(worker):
    with worker.client() as client:
        yield client


def test_the_measure_measures(worker):
    """A request that does hold the loop is seen."""

    def block() -> None:
        json.loads(EMPTIES)

    with worker.held() as held:
        worker.loop.call_soon_threadsafe(block)
    assert held[0] > reference_s()


def cut(less: int) -> bytes:
    """A list of empty lists without its end, so much shorter than a MiB."""
    return EMPTIES[: MIB - less].rpartition(b",")[0]


BODIES: dict[str, tuple[dict[str, str], Callable[[], bytes]]] = {
    "empties": (JSON, lambda: EMPTIES),
    "nested": (JSON, lambda: (b"[" * 400 + b"]" * 400 + b",") * 1300 + b"1"),
    "broken-at-the-end": (JSON, lambda: EMPTIES[:-1]),
    "surrogates": (JSON, lambda: b'["' + rb"\ud800" * 170_000 + b'"]'),
    "numbers": (JSON, lambda: b"[" + b"1," * 520_000 + b"1]"),
    "guessed": ({"Content-Type": ""}, lambda: EMPTIES),
    "control-characters": ({"Content-Type": "text/plain"}, lambda: b"\x01" * (MIB // 8)),
    "bytes": ({"Content-Type": "image/png"}, lambda: b"\xff" * MIB),
    "event-data": (EVENTS, lambda: EVENT % (b',"data":' + cut(200) + b"]")),
    "event-data-first": (
        EVENTS,
        lambda: b'{"data":' + cut(200) + b"]" + (EVENT % b"")[1:],
    ),
    "event-attributes": (EVENTS, lambda: EVENT % b"".join(b',"a%x":1' % number for number in range(80_000))),
    "event-attribute": (EVENTS, lambda: EVENT % (b',"a":"' + b"x" * (MIB - 100) + b'"')),
    "event-attribute-nested": (EVENTS, lambda: EVENT % (b',"a":' + cut(200) + b"]")),
    "event-base64-nested": (
        EVENTS,
        lambda: EVENT % (b',"data_base64":' + cut(200) + b"]"),
    ),
    "event-base64": (EVENTS, lambda: EVENT % (b',"data_base64":"%b"' % base64.b64encode(b"\0" * (MIB // 2)))),
    "lines-empty": (LINES, lambda: b"\n" * (8 * MIB)),
    "lines-blank": (LINES, lambda: (b" " * 60_000 + b"\n1\n") * 130),
    "lines-short": (LINES, lambda: b"1\n" * (4 * MIB)),
    "lines-long": (LINES, lambda: EMPTIES + b"\n" + b"1" * (7 * MIB - 100)),
    "lines-nested": (LINES, lambda: (EMPTIES[:8000].rpartition(b",")[0] + b"]\n") * 500),
    "batch-blank": (BATCH, lambda: b"[" + b" " * (8 * MIB - 2) + b"]"),
    "batch-one": (
        BATCH,
        lambda: b"[" + (EVENT % (b',"data":' + b"[" + b"[]," * 2_700_000 + b"1]")) + b"]",
    ),
    "batch-empties": (BATCH, lambda: b"[" + b"[]," * 2_700_000 + b"[]]"),
    "batch-events": (BATCH, lambda: b"[" + b",".join([EVENT % b',"data":[[],[],[]]'] * 1000) + b"]"),
    "batch-large": (BATCH, lambda: b"[" + b",".join([EVENT % (b',"data":' + EMPTIES[:-400] + b"]")] * 7) + b"]"),
}


@pytest.mark.parametrize("name", BODIES)
def test_no_enqueue_holds_the_loop(http, quick, name):
    """Bodies that are long to read, in every form."""
    headers, make = BODIES[name]
    body = make()

    def request():
        assert http.post("/queues/bodies/jobs", content=body, headers=headers).status_code in (201, 207, 400, 413)

    quick(request)


def test_no_enqueue_with_a_key_holds_the_loop(http, quick):
    """A body of many jobs is hashed, too."""

    def request():
        body = b"[" + b",".join([EVENT % b""] * 900) + b" " * 60_000 + b"]"
        answer = http.post("/queues/bodies/jobs", content=body, headers=BATCH | {"Idempotency-Key": "k"})
        assert answer.status_code == 201

    quick(request)


ITEMS: dict[str, Callable[[], bytes]] = {
    "empties": lambda: EVENT % (b',"data":' + cut(200) + b"]"),
    "attributes": lambda: EVENT % b"".join(b',"a%x":1' % number for number in range(80_000)),
    "a-thousand-attributes": lambda: EVENT % b"".join(b',"a%x":"x"' % number for number in range(900)),
    "head": lambda: EVENT % (b',"attempt":' + cut(200) + b'],"data":1'),
    "base64": lambda: EVENT % (b',"data_base64":' + cut(200) + b"]"),
    "long-attribute": lambda: EVENT % (b',"a":"' + "é".encode() * (MIB // 2 - 100) + b'"'),
    "raw": lambda: b"\xff" * MIB,
}


@pytest.mark.parametrize("name", ITEMS)
def test_no_form_of_a_delivery_holds_the_loop(broker, http, quick, name):
    """Items as a memcache client may put them: peeked at, taken, copied, made dead letters, brought back."""
    item = ITEMS[name]()

    def request():
        queue = f"items-{name}"
        client = broker.client(timeout_s=60)
        client.send(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(item), item))
        assert client.read(8) == b"STORED\r\n"
        for form in ({}, {"Accept": "application/cloudevents+json"}, {"Accept": "*/*, text/*"}):
            assert http.get(f"/queues/{queue}/peek", headers=form).status_code == 200
        assert http.get(f"/queues/{queue}/peek", params={"format": "raw"}).status_code == 200
        for end, body in (("nack", {}), ("nack", {"position": "head"}), ("reject", {"reason": "x" * 500_000})):
            lease = http.get(f"/queues/{queue}/next", params={"timeout": 5}).headers["lease-id"]
            assert http.post(f"/leases/{lease}/{end}", json=body).status_code in (200, 204)
        assert http.get(f"/queues/{queue}/dead-letters/peek").status_code == 200
        assert http.post(f"/queues/{queue}/redrive").json()["redriven"] == 1
        assert http.post(f"/queues/{queue}/flush").status_code == 204

    quick(request)


LISTS: dict[str, list[tuple[str, str | int]]] = {
    "globs": [("filter", f"name~*{'a' * 60}b")] * 16,
    "stars": [("filter", "name~" + "*a" * 31)] * 16,
    "marks": [("filter", "name~*" + "a?" * 30 + "*")] * 16,
    "figures": [("filter", "items>0"), ("sort", "-age")],
    "all": [("limit", 1000)],
}


@pytest.fixture(params=["worker", pytest.param("crowded", marks=LONG)])
def listed(request):
    """A worker with many queues."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", LISTS)
def test_no_list_holds_the_loop(listed, quick_of, name):
    """Of thousands of queues, by filters that are long to compare."""
    with listed.client() as http:

        def request():
            answer = http.get("/queues", params=[("limit", 1), *LISTS[name]] if name != "all" else LISTS[name])
            assert answer.status_code == 200
            if name in {"figures", "all"}:  # the next page, in each order
                assert http.get(answer.json()["next"]).status_code == 200

        quick_of(listed, request)


def test_no_new_queue_holds_the_loop(listed, quick_of):
    """Where there are thousands: no request reads the names of all, and what does read them reads in slices."""
    with listed.client() as http:

        def request():
            for _ in range(50):
                assert http.post(f"/queues/new-{next(NUMBERS)}/jobs", json=1).status_code == 201

        quick_of(listed, request)


ORDERS: dict[str, Callable[[], bytes]] = {
    "numbers": lambda: b'{"acks":[' + b"1," * 500_000 + b"1]}",
    "empties": lambda: b'{"acks":' + cut(20) + b"]}",
    "strings": lambda: b'{"acks":[' + b'"x",' * 250_000 + b'"x"]}',
    "members": lambda: b"{" + b",".join(b'"%x":1' % number for number in range(90_000)) + b"}",
    "reason": lambda: b'{"nacks":[{"lease":"x","reason":"' + rb"\ud83d" * 170_000 + b'"}]}',
    "unknown": lambda: json.dumps({"acks": [f"{number:056d}" for number in range(1000)]}).encode(),
    "ends-in-a-thousand": lambda: json.dumps({"acks": [f"{number:056d}" for number in range(4900)]}).encode(),
}


@pytest.mark.parametrize("name", ORDERS)
def test_no_order_holds_the_loop(http, quick, name):
    """Settlements that are long to read or many."""
    order = ORDERS[name]()

    def request():
        assert http.post("/leases/settle", content=order, headers=JSON).status_code in (207, 400)

    quick(request)


def leased(worker, queue, count):
    """The ids of so many leases."""
    with contextlib.closing(HttpClient(worker.port, 60)) as client:
        path = f"/queues/{queue}/next?timeout=5&lease_seconds=600"
        return [client.ask("GET", path).headers["lease-id"] for _ in range(count)]


@pytest.mark.parametrize("count", LEASES)
def test_many_settlements_do_not_hold_the_loop(worker, http, quick, count):
    """Each is a command of Kestrel."""

    def request():
        lines = b"".join(b"%d\n" % number for number in range(count))
        assert http.post("/queues/settled/jobs", content=lines, headers=LINES).status_code == 201
        leases = leased(worker, "settled", count)
        answer = http.post("/leases/settle", json={"acks": leases})
        assert answer.status_code == 200

    quick(request)


HEADERS = {
    "accept": (b"Accept: " + b"," * 60_000,),
    "accepts": (b"Accept: " + b",".join(b"a/%d" % number for number in range(7000)),),
    "parameters": (b"Accept: " + b";" * 60_000,),
    "many": tuple(b"a%d: 1" % number for number in range(6000)),
    "short": tuple([b"a:"] * 13_000),
    "attributes": tuple(b"ce-a%d: 1" % number for number in range(4000)),
    "attribute": (b"ce-a: " + b"%41" * 20_000,),
    "quoted": (b'ce-a: "' + rb"\a" * 30_000 + b'"',),
    "prefer": (b"Prefer: " + b",wait " * 10_000,),
    "authorization": (b"Authorization: Bearer " + b"a=" * 30_000,),
    "keys": (b"Idempotency-Key: " + b"\\" * 60_000,),
    "type": (b"Content-Type: " + b";" * 60_000,),
    "trace": (b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00", b"tracestate: " + b"a=b," * 15_000),
    "ids": (b"Request-Id: " + b"a" * 60_000,),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("line", [b"GET /queues/warm/peek", b"POST /queues/warm/jobs"])
def test_no_headers_hold_the_loop(worker, quick, name, line):
    """As many and as long as fit into a head."""

    def request():
        lines = [line + b" HTTP/1.1", b"Host: localhost", b"Connection: close", b"Content-Length: 0", *HEADERS[name]]
        assert worker.raw(b"\r\n".join(lines) + b"\r\n\r\n").startswith(b"HTTP/1.1 ")

    quick(request)


TARGETS = {
    "path": b"/queues/" + b"%41" * 20_000,
    "slashes": b"/" * 60_000,
    "leases": b"/leases/" + b"%01" * 20_000,
    "query": b"/queues?" + b"&" * 60_000,
    "values": b"/queues?filter=" + b"%41" * 20_000,
    "filters": b"/queues?" + b"&".join([b"filter=items%3E0"] * 3000),
    "cursor": b"/queues?cursor=" + b"A" * 3600,
}


@pytest.mark.parametrize("name", TARGETS)
def test_no_target_holds_the_loop(worker, quick, name):
    """Paths and queries as long as a head may be."""

    def request():
        request = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % TARGETS[name]
        assert worker.raw(request).startswith(b"HTTP/1.1 4") or name == "query"

    quick(request)


@pytest.mark.parametrize(
    ("size", "data", "status"), [(1, b"x", 400), (1, b"\n", 400), (5, b"x", 201), (400_000, b"\r\n", 201)]
)
def test_no_body_in_small_chunks_holds_the_loop(worker, quick, size, data, status):
    """Each costs the parser a callback, and so does a blank line. Framing that is longer than the data is refused."""

    def request():
        head = b"POST /queues/chunks/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        data_of = (data * size)[:size]
        body = (b"%x\r\n%b\r\n" % (size, data_of)) * (400_000 // size) + b"0\r\n\r\n"
        assert worker.raw(head + body).startswith(b"HTTP/1.1 %d" % status)

    quick(request)


def test_pipelined_requests_do_not_hold_the_loop(worker, quick):
    """As many as come together."""

    def request():
        request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(("127.0.0.1", worker.port), 60) as connection:
            connection.sendall(request * 1000 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = b""
            while chunk := connection.recv(1 << 20):
                answer += chunk
        assert answer.count(b"HTTP/1.1 200") == 1001

    quick(request)


def test_metrics_do_not_hold_the_loop(http, quick):
    """Every worker's figures."""

    def request():
        assert http.get("/metrics").status_code == 200

    quick(request)


@pytest.mark.parametrize("count", LEASES)
def test_leases_that_end_together_do_not_hold_the_loop(worker, quick, count):
    """Many leases whose time is over at one instant, and many that end with their queue."""
    lines = b"".join(b"%d\n" % number for number in range(count))

    def request():
        with plain.client(base_url=worker.url, timeout=60, limits=httpx.Limits(max_connections=1)) as http:
            for queue in ("expiring", "dropped"):
                assert http.post(f"/queues/{queue}/jobs", content=lines, headers=LINES).status_code == 201
                assert len(leased(worker, queue, count)) == count
            assert http.delete("/queues/dropped").json()["leases_ended"] == count

            def end_all():
                for lease in worker.leases("expiring"):
                    lease.deadline_s = time.monotonic()
                    worker.registry.leases.deadlines.set(lease)

            worker.loop.call_soon_threadsafe(end_all)
            while http.get("/queues/expiring").json()["items"] < count:
                time.sleep(0.05)
            assert http.delete("/queues/expiring").status_code == 200

    quick(request)


@pytest.mark.parametrize("polls", POLLS)
def test_polls_that_end_together_do_not_hold_the_loop(worker, quick, polls):
    """Hundreds, each on a queue of its own, whose time is over at one instant."""

    def request():
        clients = [socket.create_connection(("127.0.0.1", worker.port), 60) for _ in range(polls)]
        try:
            for number, client in enumerate(clients):
                head = b"GET /queues/together-%d/next?timeout=2 HTTP/1.1\r\nHost: localhost\r\n\r\n" % number
                client.sendall(head)
                time.sleep(0.001)
            time.sleep(1.3)
            worker.loop.call_soon_threadsafe(time.sleep, 1.5)  # all end during this; it takes none of its time
            for client in clients:
                # 503: on a busy machine Kestrel may be silent for as long as a final take is waited for
                assert client.recv(65536).startswith((b"HTTP/1.1 204 ", b"HTTP/1.1 503 "))
        finally:
            for client in clients:
                client.close()

    quick(request)


@pytest.mark.parametrize("count", FLOODS)
def test_connections_that_expire_together_do_not_hold_the_loop(hurried, quick_of, count):
    """Hundreds that send half a head, and whose time is over at one instant."""

    def request():
        clients = [socket.create_connection(("127.0.0.1", hurried.port), 60) for _ in range(count)]
        try:
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\n")
            time.sleep(HEADER_S - 0.5)
            hurried.loop.call_soon_threadsafe(time.sleep, 1)  # all expire during this; it takes none of its time
            for client in clients:
                while client.recv(65536):
                    pass
        finally:
            for client in clients:
                client.close()

    quick_of(hurried, request)


@pytest.mark.parametrize("count", FLOODS)
def test_a_flood_of_connections_does_not_hold_the_loop(worker, quick, count):
    """Hundreds that come at one instant: one is accepted in each turn of the loop."""

    def request():
        clients = [socket.socket() for _ in range(count)]
        try:
            worker.loop.call_soon_threadsafe(time.sleep, 0.2)  # they gather during this; it takes none of its time
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", worker.port))
            with plain.client(base_url=worker.url, timeout=60) as http:
                assert http.get("/livez").status_code == 200
        finally:
            for client in clients:
                client.close()

    quick(request)
