"""memcache clients as their registries have them, unmodified, with their defaults, share queues with HTTP."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from tests.lab.broker import BrokerProcess

PROGRAMS = Path(__file__).with_name("memcache")
INSTALLED = Path.home() / ".cache" / "kestrel-gateway" / "memcache"
JOBS = 100


def _missing(reason: str) -> None:
    reason += " (.ci/install/memcache.sh)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _go() -> list[str]:
    if not (INSTALLED / "go-client").exists():
        _missing("the Go client is not built")
    return [str(INSTALLED / "go-client")]


def _java() -> list[str]:
    if shutil.which("java") is None or not list((INSTALLED / "java").glob("spymemcached-*.jar")):
        _missing("Java or spymemcached is not installed")
    return ["java", "-cp", f"{INSTALLED / 'java'}/*", str(PROGRAMS / "java" / "Client.java")]


CLIENTS = {"gomemcache": _go, "spymemcached": _java}


def _run(command: list[str], *arguments: object) -> list[str]:
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def _take(http, queue: str, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        job = http.get(f"/queues/{queue}/next?timeout=5").json()
        found.append(base64.b64decode(job["data_base64"]))
        assert http.post(job["lease"]["url"] + "/ack").status_code == 204
    return found


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name).strip("-")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_puts_takes_and_deletes(shared, http, queue, name):
    """What it puts comes by HTTP, in order; what HTTP put it takes, in order; it deletes the queue."""
    command = CLIENTS[name]()
    _run(command, "put", shared.port, queue, JOBS)
    assert _take(http, queue, JOBS) == [b"job %d" % n for n in range(JOBS)]
    ids = [http.post(f"/queues/{queue}/jobs", json={"n": n}).json()["id"] for n in range(JOBS)]
    assert [json.loads(line)["id"] for line in _run(command, "get", shared.port, queue, JOBS)] == ids
    assert http.get(f"/queues/{queue}").json()["items"] == 0
    _run(command, "delete", shared.port, queue, 1)
    assert http.get(f"/queues/{queue}").status_code == 404


def test_pymemcache_works_with_its_defaults(shared, http, queue):
    """It reads no answer to its sets and deletes (`default_noreply`): no answer shifts, and no job vanishes."""
    client = Client(("127.0.0.1", shared.port), timeout=10)
    for n in range(300):
        assert client.set(queue, b"job %d" % n)
    assert [client.get(queue) for _ in range(150)] == [b"job %d" % n for n in range(150)]
    assert _take(http, queue, 20) == [b"job %d" % n for n in range(150, 170)]
    assert client.delete(queue)
    assert client.get(queue) is None
    assert client.set(queue, b"after")
    assert client.version() == b"2.4.8"
    assert client.get(queue) == b"after"
    client.close()


def test_pymemcache_flushes_with_its_defaults(tmp_path):
    """`flush_all` reads no answer either."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        client = Client(("127.0.0.1", broker.port), timeout=10)
        for n in range(10):
            client.set("q", b"%d" % n)
        assert client.flush_all()
        assert client.get("q") is None
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("options", ["plain", "noreply"])
def test_php_with_and_without_noreply(http, queue, php_client, options):
    """100 sets and gets in turns on one connection: every item comes back, and those that are left come by HTTP."""
    found = php_client("turns", queue, options=options)
    assert found == [f"job {n}" for n in range(100)]
    assert _take(http, queue, 100) == [b"job %d" % n for n in range(100, 200)]


@pytest.mark.slow
def test_dalli_speaks_binary_memcache_and_is_told_at_once(tmp_path):
    """Ruby's client of Debian has no text protocol: it fails at once, not after its time-out, and the log says why."""
    if (
        shutil.which("ruby") is None
        or subprocess.run(["ruby", "-e", "require 'dalli'"], capture_output=True).returncode
    ):
        _missing("dalli is not installed")
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        began_s = time.monotonic()
        said = _run(["ruby", str(PROGRAMS / "ruby" / "client.rb")], broker.port, "q")
        assert said[-1].startswith("Dalli::RingError: No server available")
        assert time.monotonic() - began_s < 9
        broker.wait_for_log("disconnected: sent binary memcache; only the text protocol of memcache is supported")


def test_the_broker_is_no_cache(tmp_path):
    """What stock clients can do and queues cannot is an error, not a surprise."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off") as broker:
        for call in (lambda c: c.add("q", b"1", noreply=False), lambda c: c.incr("q", 1)):
            client = Client(("127.0.0.1", broker.port), timeout=10)
            with pytest.raises(MemcacheError):
                call(client)
            client.close()
