"""The command `broker`: addresses, signals, the parent's channel, configuration, exit codes. Real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.commands import run_process
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running


class Child:
    """A broker as a child with a channel, ready when the constructor returns."""

    def __init__(self, data: Path, *listen: str) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(10)
        flags = [part for address in listen for part in ("--listen", address)]
        arguments = [sys.executable, "-m", "gateway.broker", *flags, "--data", str(data), "--channel-fd"]
        self.process: subprocess.Popen[bytes] = ForkedProcess(
            [*arguments, str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL
        )
        theirs.close()
        with self.channel.makefile("r") as lines:
            self.ready = json.loads(lines.readline())

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


def _ask(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(data)
        return client.recv(1000)


def test_child_is_ready_ignores_signals_and_stops_when_told(tmp_path: Path) -> None:
    """A child reports where it listens, ignores signals, and ends with 0 on command."""
    path = tmp_path / "broker.sock"
    child = Child(tmp_path / "data", f"unix:{path}", "127.0.0.1:0")
    try:
        assert child.ready["event"] == "ready"
        unix, tcp = child.ready["listen"]
        assert unix == f"unix:{path}"
        assert tcp.startswith("127.0.0.1:")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            child.process.send_signal(number)
        assert _ask(path, b"set q 0 0 1\r\nx\r\n") == b"STORED\r\n"
        child.channel.sendall(b'{"command": "st')
        child.channel.sendall(b'op"}\n')
        assert child.process.wait(30) == 0
        assert not path.exists()
    finally:
        child.close()


def test_child_ends_with_its_parent(tmp_path: Path) -> None:
    """The end of the channel is the parent's end: the child is gone at once, what it answered is kept."""
    path = tmp_path / "broker.sock"
    child = Child(tmp_path / "data", f"unix:{path}")
    try:
        assert _ask(path, b"set q 0 0 1\r\nx\r\n") == b"STORED\r\n"
        child.channel.close()
        child.process.wait(30)
    finally:
        child.close()
    again = Child(tmp_path / "data", f"unix:{path}")  # the dead one's socket is replaced
    try:
        assert _ask(path, b"get q\r\n") == b"VALUE q 0 1\r\nx\r\nEND\r\n"
    finally:
        again.close()


def test_an_address_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """A port or a living broker's socket that is taken: one line, exit code 1."""
    with BrokerProcess(tmp_path / "one") as broker:
        found = _fail(tmp_path / "two", "--listen", f"127.0.0.1:{broker.port}")
        assert found == f"kestrel-gateway broker: cannot listen on 127.0.0.1:{broker.port}: Address already in use\n"
    child = Child(tmp_path / "one", f"unix:{tmp_path}/s")
    try:
        assert "cannot listen on unix:" in _fail(tmp_path / "two", "--listen", f"unix:{tmp_path}/s")
        assert _ask(tmp_path / "s", b"version\r\n") == b"VERSION 2.4.8\r\n"
    finally:
        child.close()


def _fail(data: Path, *flags: str, code: int = 1) -> str:
    arguments = [sys.executable, "-m", "gateway.broker", "--data", str(data), "--log-level", "error", *flags]
    found = run_process(arguments)
    assert found.returncode == code, found.stderr
    return found.stderr


@pytest.mark.parametrize(
    "address", ["nowhere", "host:", ":1", "host:99999", "::1:5", "unix:", "host:1_0", "unix:" + "x" * 200]
)
def test_a_bad_address_is_wrong_usage(tmp_path: Path, address: str) -> None:
    """An address that is none is wrong usage: exit code 2."""
    assert "--listen" in _fail(tmp_path / "data", "--listen", address, code=2)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max_items = 1", "unknown key 'max_items'"),
        ("[queues.q]\nmax_itmes = 1", "unknown key queues.q.max_itmes"),
        ("[queues.q]\nmax_items = '1'", "queues.q.max_items is not a whole number"),
        ("[queues.q]\nmax_items = -1", "queues.q.max_items is not between"),
        ("[queues.q]\nmax_items = true", "queues.q.max_items is not a whole number"),
        ("[default]\nmax_age = nan", "default.max_age is not between"),
        ("[queues.'a/b']\nmax_items = 1", "is not a queue name"),
        ("[queues.q]\nexpire_to_queue = 'a.b'", "is not a queue name"),
        ("queues = 3", "queues is not a table"),
        ("[broken", "Expected ']'"),
    ],
)
def test_a_bad_configuration_is_one_line(tmp_path: Path, text: str, wanted: str) -> None:
    """A bad value names file, key and what is allowed; one line, exit code 1."""
    path = tmp_path / "broker.toml"
    path.write_text(text)
    found = _fail(tmp_path / "data", "--listen", "127.0.0.1:0", "--config", str(path))
    assert found.startswith(f"kestrel-gateway broker: {path}: ")
    assert wanted in found
    assert found.count("\n") == 1


def test_a_reload_reads_the_limits_again(tmp_path: Path) -> None:
    """SIGHUP and `reload` read the limits again; a bad file keeps the old ones."""
    with BrokerProcess(tmp_path / "data", "--fsync", "off", config="[queues.q]\nmax_items = 1\n") as broker:
        client = broker.client()
        assert [client.put("q", b"1"), client.put("q", b"2")] == [b"STORED\r\n", b"NOT_STORED\r\n"]
        (tmp_path / "data.toml").write_text("[queues.q]\nmax_items = 2\n[queues.'q+child']\nmax_items = 1")
        broker.process.send_signal(signal.SIGHUP)
        broker.wait_for_log("configuration reloaded")
        assert [client.put("q", b"2"), client.put("q", b"3")] == [b"STORED\r\n", b"NOT_STORED\r\n"]
        (tmp_path / "data.toml").write_text("nonsense")
        assert client.ask(b"reload\r\n").startswith(b"SERVER_ERROR ")
        assert client.put("q", b"3") == b"NOT_STORED\r\n"
        (tmp_path / "data.toml").write_text("")
        assert client.ask(b"reload\r\n") == b"Reloaded config.\r\n"
        assert client.put("q", b"3") == b"STORED\r\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order(tmp_path: Path, number: int) -> None:
    """Alone, SIGTERM and SIGINT end it with 0: waiters get END, sets that were under way are answered or unknown."""
    with BrokerProcess(tmp_path / "data") as broker:
        waiter, client = broker.client(), broker.client()
        waiter.send(b"get q/t=20000\r\n")
        broker.wait_for_stat("queue_q_waiters", 1)
        assert client.put("w", b"1") == b"STORED\r\n"
        broker.process.send_signal(number)
        assert waiter.value() is None
        assert broker.process.wait(30) == 0
    with BrokerProcess(tmp_path / "data") as broker:
        assert broker.client().get("w") == b"1"


def test_variables_reach_the_broker_of_a_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So larger jobs than the embedded broker stores by default are possible."""
    monkeypatch.setenv("KESTREL_GATEWAY_BROKER_MAX_ITEM_BYTES", "65536")
    gateway = Running(tmp_path / "data")
    try:
        with gateway.client() as http:
            stored = [http.post("/queues/q/jobs", json="x" * size) for size in (60_000, 70_000)]
    finally:
        gateway.kill()
    assert [(each.status_code, each.json().get("code")) for each in stored] == [(201, None), (413, "job-too-large")]


def test_variables_are_flags(tmp_path: Path) -> None:
    """Every flag is also an environment variable."""
    env = {"KESTREL_GATEWAY_BROKER_MAX_OPEN_READS": "1", "KESTREL_GATEWAY_BROKER_FSYNC": "off"}
    with BrokerProcess(tmp_path / "data", env=env) as broker:
        assert any("fsync off" in line for line in broker.log)
        client = broker.client()
        client.put("q", b"1")
        client.put("q", b"2")
        assert client.get("q/open") == b"1"
        assert client.ask(b"get q/open\r\n") == b"ERROR\r\n"
    listed = {"KESTREL_GATEWAY_BROKER_LISTEN": "127.0.0.1:0", "KESTREL_GATEWAY_BROKER_DATA": "/dev/null/x"}
    arguments = [sys.executable, "-m", "gateway.broker"]
    found = run_process(arguments, env={**os.environ, **listed})
    assert found.returncode == 1
    assert "data directory /dev/null/x: Not a directory" in found.stderr
