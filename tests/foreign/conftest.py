"""A gateway whose embedded broker is shared with memcache clients."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.gateway import Running, running
from tests.lab.ports import free_port


class Shared:
    """The gateway, and the port where memcache clients reach the same queues."""

    def __init__(self, gateway: Running, port: int) -> None:
        self.gateway = gateway
        self.port = port


class Wire:
    """A plain socket that speaks the memcache protocol."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.file = self.socket.makefile("rb")

    def put(self, key: str, item: bytes, expiry: int = 0) -> None:
        self.put_all(key, [item], expiry)

    def put_all(self, key: str, items: list[bytes], expiry: int = 0) -> None:
        """In one write: together they cost the disk little more than one."""
        sets = [b"set %b 0 %d %d\r\n%b\r\n" % (key.encode(), expiry, len(item), item) for item in items]
        self.socket.sendall(b"".join(sets))
        for _ in items:
            assert self.file.readline() == b"STORED\r\n"

    def take(self, key: str, wait_ms: int = 5000) -> bytes | None:
        """The next item, taken for good by a reliable read; None when there is none."""
        self.socket.sendall(b"get %b/t=%d/open\r\n" % (key.encode(), wait_ms))
        head = self.file.readline()
        if head == b"END\r\n":
            return None
        item = self.file.read(int(head.split()[3]))
        assert self.file.readline() + self.file.readline() == b"\r\nEND\r\n"
        self.socket.sendall(b"get %b/close\r\n" % key.encode())
        assert self.file.readline() == b"END\r\n"
        return item

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """One for all tests here; each uses queues of its own."""
    port = free_port()
    with running(tmp_path_factory.mktemp("shared") / "data", "--broker-listen", f"127.0.0.1:{port}") as gateway:
        yield Shared(gateway, port)


@pytest.fixture
def http(shared: Shared) -> Iterator[object]:
    with shared.gateway.client() as client:
        yield client


@pytest.fixture
def wire(shared: Shared) -> Iterator[Wire]:
    client = Wire(shared.port)
    yield client
    client.close()


@pytest.fixture(scope="package")
def php() -> str:
    """PHP with its memcached extension; missing, the test is skipped at home and fails in CI."""
    path = shutil.which("php")
    modules = subprocess.run([path, "-m"], capture_output=True, text=True).stdout.split() if path else []
    if "memcached" not in modules:
        reason = "php with the memcached extension is not installed (Debian: php-cli php-memcached)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    assert path is not None
    return path


@pytest.fixture
def php_client(php: str, shared: Shared):
    """Runs tests/foreign/client.php; gives what it printed."""

    def run(verb: str, queue: str, stdin: bytes = b"", options: str = "default"):
        script = Path(__file__).with_name("client.php")
        done = subprocess.run(
            [php, script, str(shared.port), options, verb, queue], input=stdin, capture_output=True, timeout=30
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout else None

    return run
