"""`kestrel-gateway doctor`: what it says of a sound host, and of each fault that it can find."""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.maintenance.doctor import host
from tests.lab.broker import BrokerProcess
from tests.lab.commands import Commands, environment, run_process
from tests.lab.gateway import Running, running
from tests.lab.ports import free_port

doctor = Commands("http://127.0.0.1:1")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway with its embedded broker."""
    with running(tmp_path_factory.mktemp("doctor") / "data") as one:
        yield one


def report(*flags: str, code: int, **variables: str) -> dict[str, Any]:
    """The report as JSON; every finding by its check, the last one where there are several."""
    done = doctor("doctor", "--json", *flags, stdin=b"", **variables)
    assert done.returncode == code, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] is (code == 0)
    found["by_check"] = {each["check"]: each for each in found["findings"]}
    return found


def line(found: dict[str, Any], check: str) -> tuple[str, str]:
    """Verdict and text of a finding."""
    return found["by_check"][check]["verdict"], found["by_check"][check]["text"]


def test_a_sound_host_before_the_start(tmp_path: Path) -> None:
    """Everything is ok, in one screen, and nothing is made."""
    flags = ("--data", str(tmp_path / "data"), "--port", str(free_port()))
    done = doctor("doctor", *flags)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.decode().splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) < 160
    checks = [each.split()[1] for each in lines[1:-1] if not each.startswith(" ")]
    assert checks == ["settings", "files", "gateway", "port", "descriptors", "data", "disk", "disk", "clock"]
    assert list(tmp_path.iterdir()) == []


def test_beside_a_running_gateway(gateway: Running) -> None:
    """It knows the gateway of the directory, its port and its broker, and disturbs neither."""
    names = sorted(path.name for path in gateway.data.iterdir())
    found = report("--data", str(gateway.data), "--port", str(gateway.port), code=0)
    assert line(found, "gateway") == ("ok", f"runs (pid {gateway.process.pid}), and is ready")
    assert line(found, "port")[1].endswith(f":{gateway.port} is served by the gateway of this data directory")
    assert "in the running gateway" in line(found, "descriptors")[1]
    assert line(found, "broker")[0] == "ok"
    assert sorted(path.name for path in gateway.data.iterdir()) == names
    found = report("--data", str(gateway.data), "--port", str(free_port()), code=0)
    assert line(found, "gateway")[0] == line(found, "port")[0] == "warning"


def test_each_setting_says_where_it_comes_from(tmp_path: Path) -> None:
    """A flag, a variable or the default; no secret is shown."""
    found = report(
        "--data", str(tmp_path / "data"), "--advertise", "http://127.0.0.1:8080", "--port", str(free_port()), code=0,
        KESTREL_GATEWAY_CLUSTER_SECRET="s" * 32, KESTREL_GATEWAY_WORKERS="2", KESTREL_GATEWAY_WORKER="2",
    )  # fmt: skip
    used = {each["flag"]: (each["value"], each["source"]) for each in found["settings"]}
    assert used["--workers"] == ("2", "KESTREL_GATEWAY_WORKERS")
    assert used["--advertise"] == ("http://127.0.0.1:8080", "flag")
    assert used["--grace"] == ("8", "default")
    assert used["--cluster-secret"] == ("(given)", "KESTREL_GATEWAY_CLUSTER_SECRET")
    assert "s" * 32 not in json.dumps(found)
    assert "--workers 2  (KESTREL_GATEWAY_WORKERS)" in found["by_check"]["settings"]["notes"]
    assert line(found, "environment") == (
        "warning", "KESTREL_GATEWAY_WORKER is not a setting and has no effect; did you mean KESTREL_GATEWAY_WORKERS?",
    )  # fmt: skip


def test_a_wrong_setting_is_an_error() -> None:
    """The text is that of `serve`."""
    found = report("--grace", "9999", code=1)
    assert line(found, "settings") == ("error", "grace: 9999.0 is not between 0 and 3600 s")
    assert line(found, "not checked") == (
        "warning",
        "files, gateway, port, descriptors, data, disk, clock, server: first correct the error in the settings above",
    )


def test_a_mistake_in_a_file_hides_no_other_fault(tmp_path: Path) -> None:
    """A server that does not answer is found beside a mistake in the keys."""
    (tmp_path / "keys").write_text("x = 1\n")
    dead = f"127.0.0.1:{free_port()}"
    flags = ("--data", str(tmp_path / "data"), "--port", str(free_port()), "--keys", str(tmp_path / "keys"))
    found = report(*flags, "--kestrel", dead, code=1)
    assert line(found, "files")[0] == "error"
    assert line(found, "server") == ("error", f"{dead}: Connection refused")
    assert "descriptors" in found["by_check"]
    assert "not checked" not in found["by_check"]


def test_every_mistake_in_every_file(tmp_path: Path) -> None:
    """Of policies, keys, the broker and the list of servers."""
    for name, content in (
        ("queues", "[queues.a]\ntt = 1"), ("keys", "x = 1\n"), ("broker-config", "y = 1\n"), ("kestrel-file", "a b\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
    flags = [f"--{name}={tmp_path / name}" for name in ("queues", "keys", "broker-config", "kestrel-file")]
    found = report("--data", str(tmp_path / "data"), "--port", str(free_port()), *flags, code=1)
    verdict, text = line(found, "files")
    assert verdict == "error"
    assert line(found, "not checked") == (
        "warning", "descriptors, server: first correct the error in the list of servers above",
    )  # fmt: skip
    told = "\n".join([text, *found["by_check"]["files"]["notes"]])
    for name in ("queues", "keys", "broker-config", "kestrel-file"):
        assert f"{tmp_path / name}" in told


def test_a_port_that_another_process_has(tmp_path: Path) -> None:
    """It says which process, where the system does."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = report("--data", str(tmp_path / "data"), "--port", str(port), code=1)
    verdict, text = line(found, "port")
    assert verdict == "error"
    assert text.startswith(f"127.0.0.1:{port} is in use by ")
    assert text.endswith(f"(pid {os.getpid()}); choose another port with --port")


def test_a_socket_that_another_process_has(short_path: Path) -> None:
    """Free, taken, or in a directory that is missing."""
    path = short_path / "s"
    flags = ("--data", str(short_path / "data"), "--listen", f"unix:{path}")
    assert line(report(*flags, code=0), "socket") == ("ok", f"{path} is free")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert "in use by another process" in line(report(*flags, code=1), "socket")[1]
    assert line(report(*flags, code=0), "socket") == ("ok", f"{path} is free"), "its process is gone"
    flags = ("--data", str(short_path / "data"), "--listen", f"unix:{short_path}/no/s")
    assert "does not exist" in line(report(*flags, code=1), "socket")[1]


def test_too_few_descriptors(tmp_path: Path) -> None:
    """A warning with the number that is needed."""
    command = [sys.executable, "-m", "tests.maintenance.few_files", "256"]
    flags = ["doctor", "--data", str(tmp_path / "data"), "--port", str(free_port())]
    done = run_process([*command, *flags], env=environment(""))
    assert done.returncode == 0, done.stdout
    assert re.search(
        r"^warning +descriptors +a worker may need \d+ open files, but the system allows only 256",
        done.stdout,
        re.MULTILINE,
    )


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A file in its place, and a key that every user may read."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "data", tmp_path / "file"):
        found = report("--data", str(place), "--port", str(free_port()), code=1)
        assert line(found, "gateway") == (
            "error", f"{place} cannot be a directory: a file is in its place; choose another directory with --data",
        )  # fmt: skip
        assert line(found, "port")[0] == "ok"
        assert line(found, "not checked")[1].startswith("data, disk, clock: ")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lease.key").write_bytes(bytes(32))
    (tmp_path / "data" / "lease.key").chmod(0o604)
    found = report("--data", str(tmp_path / "data"), "--port", str(free_port()), code=1)
    assert "(mode 0604)" in line(found, "data")[1]


@pytest.mark.parametrize(("free", "verdict"), [(63 << 20, "error"), (500 << 20, "warning"), (5 << 30, "ok")])
def test_the_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    """The measured room is the system's; only its thresholds are examined here."""
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: (100 << 30, 0, free))
    found = {each.check: each for each in host.disk_of(tmp_path)}
    assert found["disk"].verdict == verdict
    assert ("disk speed" in found) is (verdict != "error")


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """The broker's file is newer than now."""
    assert host.clock_of(tmp_path).verdict == "ok"
    (tmp_path / "broker.sqlite").touch()
    os.utime(tmp_path / "broker.sqlite", (time.time() + 100,) * 2)
    assert host.clock_of(tmp_path).verdict == "warning"


def test_servers_that_answer_and_servers_that_do_not(tmp_path: Path) -> None:
    """Each has a line of its own: up, read-only, frozen, refused, unknown name."""
    flags = ("--data", str(tmp_path / "data"), "--port", str(free_port()), "--kestrel-command-timeout", "0.3")
    dead = f"127.0.0.1:{free_port()}"
    with BrokerProcess(tmp_path / "a") as up, BrokerProcess(tmp_path / "b") as frozen:
        found = report(*flags, "--kestrel", up.address, code=0)
        verdict, text = line(found, "server")
        assert (verdict, re.sub(r"[0-9.]+ ms", "N ms", text).partition(": ")[2]) == (
            "ok",
            "version 2.4.8, answers in N ms",
        )
        assert line(found, "clock") == ("ok", "agrees with 1 server, within 2 s")
        up.ask("status readonly")
        frozen.freeze()
        servers = f"{up.address},{frozen.address},{dead},dns:nowhere.invalid:22133"
        found = report(*flags, "--kestrel", servers, code=1)
        told = [(each["verdict"], each["text"]) for each in found["findings"] if each["check"] == "server"]
        frozen.thaw()
    assert told[0][0] == "error"
    assert told[0][1].startswith("dns:nowhere.invalid:22133: ")
    assert told[1][0] == "warning"
    assert "is READONLY; set it to up with PUT /backends/" in told[1][1]
    assert told[2] == ("error", f"{frozen.address}: no answer in time")
    assert told[3] == ("error", f"{dead}: Connection refused")


class WrongClock(socketserver.StreamRequestHandler):
    """Kestrel's answers, of a server whose clock is a minute behind."""

    def handle(self) -> None:
        answers = {
            b"version\r\n": b"VERSION 2.4.1\r\n",
            b"stats\r\n": b"STAT uptime 5\r\nSTAT time %d\r\nEND\r\n" % (time.time() - 60),
            b"status\r\n": b"CLIENT_ERROR\r\n",  # Kestrel 2.4.1 has none
        }
        while command := self.rfile.readline():
            self.wfile.write(answers[command])


def test_a_server_with_a_wrong_clock(tmp_path: Path) -> None:
    """A warning that names the server, the difference and what follows."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), WrongClock) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_address[1]}"
            found = report(f"--data={tmp_path / 'data'}", f"--port={free_port()}", f"--kestrel={address}", code=0)
        finally:
            server.shutdown()
            thread.join()
    verdict, text = line(found, "clock")
    assert verdict == "warning"
    assert re.fullmatch(
        rf"{address} is (59|60|61) s behind this host, and ttl and delay are wrong by as much: set the clocks", text
    )
    assert line(found, "server")[1].startswith(f"{address}: version 2.4.1, answers in ")


def test_a_start_during_an_examination_does_not_fail(tmp_path: Path) -> None:
    """The examination holds a lock for an instant: the start waits for that one."""
    import fcntl

    from gateway.process.datadir import DataDirectory

    data = tmp_path / "data"
    DataDirectory(data).close()
    with (data / "run.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        timer = threading.Timer(0.1, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        timer.start()
        DataDirectory(data).close()
        timer.join()


def test_the_example_in_the_document_is_the_report(root: Path, gateway: Running) -> None:
    """docs/troubleshooting.md shows the checks in their order, and says what each of them is."""
    text = (root / "docs" / "troubleshooting.md").read_text()
    shown = text.split("$ kestrel-gateway doctor")[1].split("```")[0]
    checks = re.findall(r"^(?:ok|warning|error) {3,}(\w+(?: speed)?)", shown, re.MULTILINE)
    found = report("--data", str(gateway.data), "--port", str(gateway.port), code=0)
    assert checks == [each["check"] for each in found["findings"]]
    table = text.split("| check | what it finds |")[1].split("\n\n")[0]
    assert set(checks) <= set(
        re.findall(r"[a-z]+(?: speed)?", "|".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))
    )
