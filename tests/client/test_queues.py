"""`queues`, `queue`, `dead-letters`, `redrive`, `flush` and `delete` from a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.commands import COMMAND, Commands, environment
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running, running


@pytest.fixture
def filled(http: httpx.Client, queue: str) -> str:
    """A queue with three jobs."""
    for text in ("one", "two", "three"):
        http.post(f"/queues/{queue}/jobs", content=text).raise_for_status()
    return queue


def test_the_table_is_plain_when_piped(command: Commands, filled: str):
    """A line of headings, then a line per queue, with tabs."""
    headings, row = command.text("queues", "--filter", f"name={filled}").splitlines()
    assert headings.split("\t")[:3] == ["QUEUE", "ITEMS", "BYTES"]
    assert row.split("\t")[:2] == [filled, "3"]
    assert {"WAITERS", "DEAD", "PAUSED"} < set(headings.split("\t"))
    assert row.split("\t")[-1] == "no"
    command.text("pause", filled)
    assert command.text("queues", "--filter", f"name={filled}").splitlines()[1].split("\t")[-1] == "yes"


def test_json_has_every_figure(command: Commands, filled: str):
    """One object a line; `queue` shows the same object."""
    (listed,) = map(json.loads, command.text("queues", "--json", "--filter", f"name={filled}").splitlines())
    assert (listed["queue"], listed["items"], listed["reachable"]) == (filled, 3, True)
    one = json.loads(command.text("queue", filled, "--json", "--servers"))
    assert (one["items"], one["servers"][0]["items"]) == (3, 3)
    figures = command.text("queue", filled)
    assert "items\t3\n" in figures
    assert "reachable\tyes\n" in figures


@pytest.mark.parametrize(
    "command_line",
    [
        ["queue", "QUEUE"],
        ["peek", "QUEUE"],
        ["flush", "QUEUE", "--yes"],
        ["delete", "QUEUE", "--yes"],
        ["delete", "QUEUE+child", "--yes"],
        ["pause", "QUEUE"],
        ["resume", "QUEUE"],
        ["redrive", "QUEUE"],
        ["dead-letters", "QUEUE"],
        ["dead-letters", "QUEUE", "--list", "1"],
        ["dead-letters", "QUEUE", "--delete", "--yes"],
        ["dead-letters", "QUEUE", "0000", "delete", "--yes"],
        ["dead-letters", "QUEUE", "0000", "redrive"],
        ["subscriptions", "QUEUE"],
        ["unsubscribe", "QUEUE", "child", "--yes"],
    ],
    ids=" ".join,
)
def test_a_queue_that_does_not_exist(command: Commands, http: httpx.Client, queue: str, command_line: list[str]):
    """The exit code is 3, a line says so, and no queue is created."""
    done = command(*(part.replace("QUEUE", queue) for part in command_line))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, b"", 1)
    assert b"-not-found: " in done.stderr
    assert http.get(f"/queues/{queue}").status_code == 404


def test_every_page_is_listed(command: Commands, gateway: Running, filled: str, monkeypatch: pytest.MonkeyPatch):
    """The list follows the pages of the gateway."""
    from gateway.client.api import GatewayApi
    from gateway.client.queues import _listed
    from gateway.client.target import Target

    monkeypatch.setattr(GatewayApi, "call", _with_small_pages(GatewayApi.call))
    with gateway.client() as http:
        for number in range(3):
            http.post(f"/queues/{filled}-{number}/jobs", content=b"x").raise_for_status()
    with GatewayApi(Target(gateway.url), 0, print) as api:
        names = [each["queue"] for each in _listed(api, (f"name~{filled}*",), "name")]
    assert names == [filled, *(f"{filled}-{number}" for number in range(3))]


def _with_small_pages(call):
    def small(self, method, path, **options):
        if "?" not in path:
            options["params"] = {**options["params"], "limit": 2}
        return call(self, method, path, **options)

    return small


def test_watch_shows_changes_on_a_terminal(gateway: Running, http: httpx.Client, filled: str):
    """The table is drawn again with the new figures, until it is interrupted."""
    ours, theirs = pty.openpty()
    process: subprocess.Popen[bytes] = ForkedProcess(
        [*COMMAND, "queues", "--watch", "--every", "0.1", "--filter", f"name={filled}"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment(gateway.url, TERM="xterm"),
    )
    os.close(theirs)
    try:
        _read_until(ours, b"3")
        http.post(f"/queues/{filled}/jobs", content=b"x").raise_for_status()
        _read_until(ours, b" 4 ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def _read_until(terminal: int, wanted: bytes) -> None:
    seen, ends_s = b"", time.monotonic() + 60
    while wanted not in seen:
        assert select.select([terminal], [], [], max(0, ends_s - time.monotonic()))[0], seen
        seen += os.read(terminal, 65536)


def test_one_dead_letter(command: Commands, http: httpx.Client, filled: str):
    """It is found in the list, shown with its payload, moved back or deleted; the others stay."""
    for _ in range(3):
        lease = http.get(f"/queues/{filled}/next").json()["lease"]["id"]
        http.post(f"/leases/{lease}/reject", json={"reason": "bad"}).raise_for_status()
    listed = [json.loads(line) for line in command.text("dead-letters", filled, "--list", "5", "--json").splitlines()]
    assert [each["error"] for each in listed] == ["bad"] * 3
    headings, row = (line.split("\t") for line in command.text("queues", "--filter", f"name={filled}").splitlines())
    assert dict(zip(headings, row, strict=True))["DEAD"] == "3"
    first, second, third = (each["letter"] for each in listed)
    table = command("dead-letters", filled, "--list", "2")
    assert table.stdout.decode().splitlines()[1].split("\t")[0] == first
    assert b"1 more dead letter" in table.stderr
    shown = json.loads(command.text("dead-letters", filled, second, "show"))
    assert "content_type" in shown  # with its payload
    assert shown["letter"] == second
    assert command.text("dead-letters", filled, second, "redrive") == f"{second} moved to {filled}\n"
    assert command("dead-letters", filled, first, "delete").returncode == 2
    assert "deleted" in command.text("dead-letters", filled, first, "delete", "--yes")
    for action in ("show", "delete", "redrive"):
        gone = command("dead-letters", filled, first, action, "--yes")
        assert gone.returncode == 3, gone.stderr
    left = command.text("dead-letters", filled, "--list", "5", "--json").splitlines()
    assert [json.loads(line)["letter"] for line in left] == [third]
    assert command("dead-letters", filled, first, "--delete").returncode == 2
    for count in ("0", "101"):
        assert command("dead-letters", filled, "--list", count).returncode == 2


def test_dead_letters_and_redrive(command: Commands, http: httpx.Client, filled: str):
    """They are counted, shown, moved back in part, and deleted only if that is confirmed."""
    for _ in range(3):
        lease = http.get(f"/queues/{filled}/next").json()["lease"]["id"]
        http.post(f"/leases/{lease}/reject", json={"reason": "bad"}).raise_for_status()
    assert "items\t3\n" in command.text("dead-letters", filled)
    assert command.text("redrive", filled, "--max", "1") == f"1 dead letter moved to {filled}, 2 left\n"
    assert http.get(f"/queues/{filled}").json()["items"] == 1
    refused = command("dead-letters", filled, "--delete")
    assert refused.returncode == 2
    assert b"Give --yes to confirm" in refused.stderr
    assert command.text("dead-letters", filled, "--delete", "--yes") == f"2 dead letters of {filled} deleted\n"
    assert command("dead-letters", filled, "--peek").returncode == 3
    assert command.text("redrive", filled) == f"0 dead letters moved to {filled}, 0 left\n"


def test_redrive_to_another_queue(command: Commands, http: httpx.Client, filled: str):
    """--to, --reason and --rate are passed on; dead letters with another reason stay."""
    for how in ("reject", "ack"):
        lease = http.get(f"/queues/{filled}/next").json()["lease"]["id"]
        http.post(f"/leases/{lease}/{how}").raise_for_status()
    other = f"{filled}-again"
    none = command("redrive", filled, "--to", other, "--reason", "max-attempts")
    assert (none.returncode, none.stdout[:27]) == (0, b"0 dead letters moved to " + other.encode()[:3])
    moved = command.text("redrive", filled, "--to", other, "--reason", "rejected", "--rate", "100")
    assert moved == f"1 dead letter moved to {other}, 0 left\n"
    assert command.text("next", other, "--ack", "--raw") == "one"
    assert command("redrive", filled, "--max", "0").returncode == 2


def test_servers_that_do_not_answer(tmp_path: Path):
    """What only some of them have done is no success: a line says so, and the exit code is 5."""
    with BrokerProcess(tmp_path / "a") as up, BrokerProcess(tmp_path / "b") as down:
        servers = ("--kestrel", up.address, "--kestrel", down.address)
        with running(tmp_path / "data", *servers) as gateway:
            command = Commands(gateway.url)
            for number in range(8):
                command.text("put", "q", str(number))
            down.kill()
            for arguments in (["queues"], ["queue", "q"], ["next", "q", "--wait", "0"], ["flush", "q", "--yes"]):
                if arguments[0] == "next":
                    while (done := command(*arguments)).returncode == 0:
                        pass
                else:
                    done = command(*arguments)
                assert done.returncode == 5, (arguments, done)
                assert b"only 1/2 Kestrel servers answered" in done.stderr


def test_flush_and_delete_ask_first(command: Commands, http: httpx.Client, filled: str):
    """Without a terminal they need --yes; with it the queue is empty, and then gone."""
    for name in ("flush", "delete"):
        assert command(name, filled).returncode == 2
    assert http.get(f"/queues/{filled}").json()["items"] == 3
    assert command.text("flush", filled, "--yes") == f"{filled} is empty\n"
    assert http.get(f"/queues/{filled}").json()["items"] == 0
    assert command.text("delete", filled, "--yes") == f"{filled} is deleted, 0 leases ended\n"
    assert command("queue", filled).returncode == 3


def test_a_pause_and_its_end(command: Commands, http: httpx.Client, filled: str):
    """Nothing is handed out while the queue is paused; `resume` ends it, and `--for` says until when it lasts."""
    assert command.text("pause", filled, "--for", "3600", "--reason", "deploy").startswith(
        f"{filled} is paused until 20"
    )
    figures = json.loads(command.text("queue", filled, "--json"))
    assert (figures["pause"]["paused"], figures["pause"]["reason"]) == (True, "deploy")
    assert http.get(f"/queues/{filled}/next?timeout=0").headers["queue-paused"]
    waited = command("next", filled, "--wait", "0")
    assert (waited.returncode, waited.stderr) == (3, f"kestrel-gateway: {filled} is paused\n".encode())
    assert command.text("resume", filled) == f"{filled} is resumed\n"
    assert command.text("resume", filled) == f"{filled} was not paused\n"
    assert command.text("next", filled, "--ack", "--raw") == "one"
    for name in ("pause", "resume"):
        assert command(name, "no-such-queue").returncode == 3


def test_subscriptions(command: Commands, queue: str):
    """They are created, listed, read under their name, and deleted if that is confirmed."""
    assert command.text("subscribe", queue, "audit") == f"{queue}+audit is created\n"
    assert command.text("subscribe", queue, "audit") == f"{queue}+audit exists already\n"
    command.text("put", queue, "hello")
    assert command.text("next", f"{queue}+audit", "--ack", "--raw") == "hello"
    headings, row = command.text("subscriptions", queue).splitlines()
    assert (headings.split("\t")[0], row.split("\t")[0]) == ("SUBSCRIPTION", f"{queue}+audit")
    assert json.loads(command.text("subscriptions", queue, "--json"))["child"] == "audit"
    assert command("unsubscribe", queue, "audit").returncode == 2
    assert command.text("unsubscribe", queue, "audit", "--yes") == f"{queue}+audit is deleted, 0 leases ended\n"
    assert command.text("subscriptions", queue).count("\n") == 1


def test_the_figures_show_pauses(command: Commands, filled: str):
    """The plain table of one queue has no nested values."""
    command.text("pause", filled, "--reason", "deploy")
    shown = command.text("queue", filled)
    assert "{" not in shown
    assert "paused\tdeploy\n" in shown
    command.text("resume", filled)
