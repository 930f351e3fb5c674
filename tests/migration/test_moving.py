"""`forward` between real servers, and from one to a gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.migration.queue_names import NewNames
from tests.kestrel.standin import Manners, StandIn, darner, siberite
from tests.lab.broker import BrokerProcess
from tests.lab.commands import COMMAND, Commands, environment
from tests.lab.examples import examples
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import Running, running
from tests.lab.holding import GatedProxy
from tests.lab.ports import free_port
from tests.lab.waiting import LIMIT_S, undisturbed, until

run = Commands("http://127.0.0.1:9")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """It takes jobs up to 4 KiB, and the queue `raw` is a raw one."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "queues").write_text('[queues.raw]\nformat = "raw"\n')
    with running(folder / "data", "--queues", str(folder / "queues"), "--max-job-bytes", "4096") as process:
        yield process


def items(broker: BrokerProcess, key: str) -> list[bytes]:
    return list(broker.client().take_all(key))


def fill(broker: BrokerProcess, key: str, count: int) -> list[bytes]:
    """Puts that many items, in one write."""
    client = broker.client()
    bodies = [b"%b %d" % (key.encode(), number) for number in range(count)]
    client.send(b"".join(b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(each), each) for each in bodies))
    for _ in bodies:
        assert client.line() == b"STORED\r\n"
    return bodies


def test_between_servers(old: BrokerProcess, new: BrokerProcess) -> None:
    """Every item of queues, children and dead letters is on the other side, in order, under its new name."""
    old.client().get("mail+audit/peek")
    bodies = fill(old, "mail", 250)
    fill(old, "mail__dead", 2)
    fill(old, "other", 1)
    old.client().put("mail", b"\0\r\nEND\r\n")
    done = run("forward", "--from", old.address, "--to", new.address, "--rename", "mail=acme__mail", "--prefix", "x__")
    assert done.returncode == 0, done.stderr
    wanted = [*bodies, b"\0\r\nEND\r\n"]
    assert items(new, "acme__mail") == wanted
    assert items(new, "acme__mail+audit") == wanted
    assert items(new, "acme__mail__dead") == [b"mail__dead 0", b"mail__dead 1"]
    assert items(new, "x__other") == [b"other 0"]
    assert {each["items"] for each in old.client().queues().values()} == {0}
    assert done.stdout.decode().splitlines() == [
        "QUEUE\tMOVED", "mail\t251", "mail+audit\t251", "mail__dead\t2", "other\t1",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [darner, siberite])
def test_from_a_server_that_imitates_kestrel(new: BrokerProcess, kind: Callable[[], Manners]) -> None:
    """Without `monitor` and `confirm` the items come one at a time, in order."""

    async def main() -> None:
        async with StandIn(kind()) as server:
            server.queues["mail"] = deque(b"mail %d" % number for number in range(30))
            done = await asyncio.to_thread(run, "forward", "--from", server.address, "--to", new.address)
            assert done.returncode == 0, done.stderr
            assert not server.queues["mail"]

    asyncio.run(main())
    assert items(new, "mail") == [b"mail %d" % number for number in range(30)]


def test_only_some_queues(old: BrokerProcess, new: BrokerProcess) -> None:
    """--queue chooses them by patterns."""
    for key in ("a1", "a2", "b"):
        fill(old, key, 1)
    done = run("forward", "--from", old.address, "--to", new.address, "--queue", "a*", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"queue": "a1", "moved": 1},
        {"queue": "a2", "moved": 1},
    ]
    assert items(old, "b") == [b"b 0"]


def test_children_at_the_destination(old: BrokerProcess, new: BrokerProcess) -> None:
    """They would get copies, so the queue is not moved."""
    new.client().get("mail+audit/peek")
    fill(old, "mail", 3)
    done = run("forward", "--from", old.address, "--to", new.address)
    assert done.returncode == 1
    assert b"mail+audit" in done.stderr
    assert new.stat("queue_mail+audit_items") == 0
    assert old.stat("queue_mail_items") == 3


def test_to_a_gateway(old: BrokerProcess, gateway: Running) -> None:
    """A job of another gateway keeps its id, another item keeps its bytes, and an expired job is left out."""
    event = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "t", "data": {"n": 1}}
    old.client().put("mail", json.dumps(event).encode())
    old.client().put("mail", json.dumps({**event, "id": "e2", "expires": "2020-01-01T00:00:00Z"}).encode())
    old.client().put("mail", b"\xff\0raw")
    old.client().put("mail", json.dumps({**event, "id": "e3"}).encode())
    done = run("forward", "--from", old.address, "--to", gateway.url + "/", "--rename", "mail=letters")
    assert done.returncode == 0, done.stderr
    assert b"1 job had expired and is left out" in done.stderr
    with gateway.client() as client:
        found = [client.get("/queues/letters/next?timeout=0").json() for _ in range(3)]
        for each in found:
            client.post(f"/leases/{each['lease']['id']}/ack")
        assert client.get("/queues/letters").json()["items"] == 0
    assert [found[0]["id"], found[2]["id"]] == ["e1", "e3"]
    assert found[0]["data"] == {"n": 1}
    assert found[1]["data_base64"] == "/wByYXc="


def test_to_a_raw_queue(old: BrokerProcess, gateway: Running) -> None:
    """It gets every item byte for byte, also those that look like the job of a gateway."""
    events = [b'{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":1}' % number for number in range(3)]
    for each in (*events, b"\xff\0"):
        old.client().put("mail", each)
    done = run("forward", "--from", old.address, "--to", gateway.url, "--rename", "mail=raw")
    assert done.stdout == b"QUEUE\tMOVED\nmail\t4\n", done.stderr
    with gateway.client() as client:
        assert [client.get("/queues/raw/next?timeout=0&format=raw").content for _ in range(4)] == [*events, b"\xff\0"]


def test_a_name_that_a_gateway_does_not_take(old: BrokerProcess, gateway: Running) -> None:
    """A child needs another name there; its jobs stay where they are until it has one."""
    bodies = fill(old, "lone+audit", 150)
    arguments = ("forward", "--from", old.address, "--to", gateway.url)
    done = run(*arguments)
    assert done.returncode == 1
    assert b"lone+audit" in done.stderr
    assert items(old, "lone+audit") == bodies
    old.client().put("lone+audit", b"copy")
    done = run(*arguments, "--rename", "lone+audit=audit")
    assert done.returncode == 0, done.stderr
    with gateway.client() as client:
        assert client.get("/queues/audit").json()["items"] == 1


def test_a_job_that_is_too_large_leaves_the_order(old: BrokerProcess, gateway: Running) -> None:
    """The jobs before it are moved, and it stays the first of the old server, followed by the others in their order."""
    bodies = [b"%d" % number for number in range(40)]
    bodies[10] = b"x" * 5000
    for each in bodies:
        old.client().put("mail", each)
    done = run("forward", "--from", old.address, "--to", gateway.url, "--rename", "mail=parcels")
    assert (done.returncode, b"mail is not moved" in done.stderr) == (1, True), done.stderr
    with gateway.client() as client:
        assert client.get("/queues/parcels").json()["items"] == 10
    assert items(old, "mail") == bodies[10:]


def test_a_full_destination(old: BrokerProcess, tmp_path: Path) -> None:
    """What does not fit stays on the old server, and the exit code is 5. What is in hand waits for room, in order."""
    bodies = fill(old, "mail", 50)
    with BrokerProcess(tmp_path / "small", config="[default]\nmax_items = 20\n") as small:
        done = run("forward", "--from", old.address, "--to", small.address, "--retry", "0")
        assert done.returncode == 5
        assert b"full" in done.stderr
        assert items(small, "mail") == bodies[:20]
        assert items(old, "mail") == bodies[20:]
        bodies = fill(old, "mail", 50)
        command = [*COMMAND, "forward", "--from", old.address, "--to", small.address]
        with ForkedProcess(command, env=environment("http://127.0.0.1:9"), stderr=subprocess.PIPE) as waiting:
            until(lambda: old.stat("queue_mail_open_transactions") == 30)  # in hand, while there is no room for them
            waiting.send_signal(signal.SIGINT)
            waiting.communicate(timeout=60)
        assert (waiting.returncode, items(small, "mail")) == (130, bodies[:20])
        assert items(old, "mail") == bodies[20:]
        bodies = fill(old, "mail", 50)
        command = [*COMMAND, "forward", "--from", old.address, "--to", small.address]
        process: subprocess.Popen[bytes] = ForkedProcess(
            command, env=environment("http://127.0.0.1:9"), stderr=subprocess.PIPE
        )
        found: list[bytes] = []

        def all_came() -> bool:
            found.extend(items(small, "mail"))
            return len(found) >= len(bodies)

        until(all_came)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 0, error
    assert found == bodies


def test_open_reads_of_others(old: BrokerProcess, new: BrokerProcess) -> None:
    """The old server is not empty while another client has a job in hand."""
    fill(old, "mail", 2)
    consumer = old.client()
    assert consumer.get("mail/open") == b"mail 0"
    done = run("forward", "--from", old.address, "--to", new.address)
    assert done.returncode == 5
    assert b"1 of mail" in done.stderr
    consumer.close()
    old.wait_for_stat("queue_mail_items", 1)
    assert run("forward", "--from", old.address, "--to", new.address).returncode == 0
    assert items(new, "mail") == [b"mail 1", b"mail 0"]


def test_a_server_that_is_away(old: BrokerProcess) -> None:
    """The command tries again for a while, then ends with 5."""
    fill(old, "mail", 1)

    @undisturbed(0.1)
    def moved() -> None:
        done = run("forward", "--from", old.address, "--to", f"127.0.0.1:{free_port()}", "--retry", "0.5")
        assert done.returncode == 5
        assert b"next try in" in done.stderr

    moved()
    assert items(old, "mail") == [b"mail 0"]


def test_follow(old: BrokerProcess, new: BrokerProcess, tmp_path: Path) -> None:
    """It moves what comes later, also after the old server was away, until it is interrupted."""
    command = [*COMMAND, "forward", "--from", old.address, "--to", new.address, "--follow"]
    with (tmp_path / "log").open("wb") as log:
        process: subprocess.Popen[bytes] = ForkedProcess(
            command, env=environment("http://127.0.0.1:9"), stdout=log, stderr=log
        )
    try:
        fill(old, "mail", 1)
        until(lambda: new.stat("queue_mail_items") == 1)
        old.kill()
        old.start()
        fill(old, "late", 2)
        until(lambda: new.stat("queue_late_items") == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    shown = (tmp_path / "log").read_text()
    assert "kestrel-gateway: interrupted; run the same command again to move the rest\nQUEUE\tMOVED\nlate\t2\n" in shown


def test_an_interrupted_move_moves_no_job_twice(old: BrokerProcess, new: BrokerProcess) -> None:
    """Ctrl-C, or the end of a terminal: what is stored is confirmed, and the order remains."""
    bodies = fill(old, "mail", 1000)
    with GatedProxy(new.address) as proxy:
        arguments = ("forward", "--from", old.address, "--to", proxy.address)
        moved = [0]
        for number in (signal.SIGINT, signal.SIGHUP):
            proxy.hold_after(8000)  # in the third batch of 100, or near it
            process: subprocess.Popen[bytes] = ForkedProcess(
                [*COMMAND, *arguments], env=environment("http://127.0.0.1:9"), stdout=subprocess.PIPE
            )
            assert proxy.reached.wait(LIMIT_S)
            process.send_signal(number)
            proxy.gate.set()
            assert process.communicate(timeout=LIMIT_S)[0].startswith(b"QUEUE\tMOVED\nmail\t")
            assert process.returncode == 130
            moved.append(new.stat("queue_mail_items"))
            assert moved[-2] < moved[-1] < 1000
        assert run(*arguments).returncode == 0
    assert items(new, "mail") == bodies


def killed_moves(old: BrokerProcess, new: BrokerProcess, *, count: int, kills: int) -> None:
    """The command is killed again and again; nothing is lost, and at most a batch is twice for each kill."""
    bodies = fill(old, "mail", count)
    command = [*COMMAND, "forward", "--from", old.address, "--to", new.address]
    client, lived = new.client(), 0
    for kill in range(kills + 1):
        process: subprocess.Popen[bytes] = ForkedProcess(
            command, env=environment("http://127.0.0.1:9"), stderr=subprocess.PIPE
        )
        if kill < kills:
            target = count * (kill + 1) // (kills + 1)
            while process.poll() is None and int(client.stats().get("queue_mail_total_items", 0)) < target:
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                lived += 1
        error = process.communicate(timeout=120)[1]
        old.wait_for_stat("queue_mail_open_transactions", 0)
    assert process.returncode == 0, error
    assert lived, "no run was killed"
    found = Counter(items(new, "mail"))
    assert set(found) == set(bodies)
    assert sum(found.values()) - count <= 100 * lived


def test_killed_moves(old: BrokerProcess, new: BrokerProcess) -> None:
    """None lost, and at most one batch twice for each kill."""
    killed_moves(old, new, count=examples(3000, fewest=1500), kills=2)


@pytest.mark.parametrize(
    ("old_name", "new_name"),
    [
        ("mail", "post"),
        ("mail+audit", "post+audit"),
        ("mail__dead", "post__dead"),
        ("mail__audit__subdead", "post__audit__subdead"),
        ("mail+special", "apart"),
        ("acme__mail", "x__acme__mail"),
        ("acme__mail__dead", "x__acme__mail__dead"),
        ("other+c", "x__other+c"),
    ],
)
def test_new_names(old_name: str, new_name: str) -> None:
    """A new name is that of the children and dead letters, too, unless they have one of their own."""
    assert NewNames((), {"mail": "post", "mail+special": "apart"}, "x__").new(old_name) == new_name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "a:1"], "--to"),
        (["--from", "a", "--to", "b:1"], "from: 'a' is not HOST:PORT"),
        (["--from", "a:1", "--to", "b"], "to: 'b' is not HOST:PORT"),
        (["--from", "a:1", "--to", "b:1", "--key", "k"], "only a gateway has keys"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    """One line, exit code 2."""
    done = run("forward", *arguments)
    assert done.returncode == 2
    assert message in done.stderr.decode()
