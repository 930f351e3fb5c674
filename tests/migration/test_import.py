"""`import-journal` on real files and real servers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.migration import data_directory
from tests.lab.broker import BrokerProcess
from tests.lab.commands import COMMAND, Commands, environment, run_process
from tests.lab.examples import examples
from tests.lab.forkserver import ForkedProcess
from tests.lab.gateway import running
from tests.lab.holding import GatedProxy
from tests.lab.waiting import LIMIT_S
from tests.migration.journals import Op, adds, encoded, write

run = Commands("http://127.0.0.1:9")
NO_GATEWAY = environment("http://127.0.0.1:9")
INTERRUPTED = b"kestrel-gateway: interrupted; run the same command again to continue\n"


@pytest.fixture
def broker(new: BrokerProcess) -> BrokerProcess:
    """The destination."""
    return new


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    """A queue with a child, open transactions, an expired item, and a torn tail."""
    folder = tmp_path / "spool"
    write(folder / "emails.100", [*adds(4), Op("remove"), Op("remove-tentative-xid", 1)])
    write(
        folder / "emails", [Op("addx", data=b"\0bin\r\nEND\r\n"), Op("addx", data=b"old", expires_ms=1)], b"\x02\x20\0"
    )
    hour_ms = int(time.time() + 3600) * 1000
    write(folder / "emails+audit", [Op("addx", data=b"copy", expires_ms=hour_ms)])
    return folder


def items(broker: BrokerProcess, key: str) -> list[bytes]:
    return list(broker.client().take_all(key))


def test_a_dry_run_counts(journals: Path, tmp_path: Path) -> None:
    """It prints what each queue holds, expired jobs apart, reports the torn tail, and writes nothing."""
    done = run("import-journal", str(journals), "--dry-run", "--json")
    assert done.returncode == 0
    shown = {each["queue"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert shown["emails"] == {
        "queue": "emails", "name": "emails", "jobs": 4, "bytes": 26, "given_back": 1, "expired": 1, "files": 2,
    }  # fmt: skip
    assert shown["emails+audit"]["jobs"] == 1
    assert b"torn: emails: the file ends within an operation" in done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["spool"]


def test_into_a_server(journals: Path, broker: BrokerProcess) -> None:
    """Every live item is there, once and in order, with its bytes and expiry; a second run stores nothing."""
    done = run("import-journal", str(journals), "--to", broker.address, "--rename", "emails=mail")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[1:] == ["emails\tmail\t4\t1\t0", "emails+audit\tmail+audit\t1\t0\t0"]
    again = run("import-journal", str(journals), "--to", broker.address, "--rename", "emails=mail")
    assert again.stdout.decode().splitlines()[1:] == ["emails\tmail\t0\t0\t4", "emails+audit\tmail+audit\t0\t0\t1"]
    assert items(broker, "mail") == [b"job 1", b"job 2", b"job 3", b"\0bin\r\nEND\r\n"]
    assert items(broker, "mail+audit") == [b"copy"]


def test_into_a_data_directory(journals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway on the directory delivers the jobs, and the command refuses a directory in use."""
    monkeypatch.setattr(data_directory, "subprocess", SimpleNamespace(Popen=ForkedProcess))  # of the broker
    data = tmp_path / "data"
    done = run("import-journal", str(journals), "--data", str(data))
    assert done.returncode == 0, done.stderr
    with running(data) as gateway, gateway.client() as client:
        answer = client.get("/queues/emails/next?timeout=0&format=raw")
        assert answer.content == b"job 1"
        assert client.get("/queues/emails").json()["items"] == 3
        client.post(f"/leases/{answer.headers['lease-id']}/ack")
        refused = run("import-journal", str(journals), "--data", str(data), "--from-start")
        assert refused.returncode == 1
        assert b"did not start" in refused.stderr


def test_damage_stops_the_import(journals: Path, broker: BrokerProcess) -> None:
    """Nothing is stored, until the operator says that the rest is wanted; then the exit code still tells of it."""
    write(journals / "bad.5", [*adds(2)], b"\x63 damage")
    write(journals / "bad", adds(1, 9))
    done = run("import-journal", str(journals), "--to", broker.address)
    assert done.returncode == 1
    assert b"damaged: bad.5: 99 is not an operation, at byte 52; the last 8 bytes are left out" in done.stderr
    assert broker.client().queues() == {}
    done = run("import-journal", str(journals), "--to", broker.address, "--skip-damaged")
    assert done.returncode == 1
    assert items(broker, "bad") == [b"job 0", b"job 1", b"job 9"]


def test_children_at_the_destination_stop_the_import(journals: Path, broker: BrokerProcess) -> None:
    """They would get a copy of each item, beside those that are imported for them."""
    broker.client().put("emails+audit", b"new")
    done = run("import-journal", str(journals), "--to", broker.address)
    assert done.returncode == 1
    assert b"emails+audit" in done.stderr
    assert broker.client().queues()["emails+audit"]["items"] == 1


def test_a_journal_that_changes(tmp_path: Path) -> None:
    """The command says that a Kestrel runs; what it wrote meanwhile is not imported."""
    journal = tmp_path / "spool" / "q"
    write(journal, adds(3))
    before = journal.stat().st_size
    with journal.open("ab") as file:
        file.write(encoded(adds(1)))
    assert journal.stat().st_size > before
    from gateway.migration.importing import grown
    from gateway.migration.journal_files import JournalDirectory, JournalFile

    assert grown(JournalDirectory(tmp_path, {"q": (JournalFile(journal, before),)}, (), ())) == ["q"]
    assert grown(JournalDirectory(tmp_path, {"q": (JournalFile(journal, journal.stat().st_size),)}, (), ())) == []


def test_a_destination_that_is_away_or_full(tmp_path: Path) -> None:
    """The exit code is 5, nothing is lost, and the same command continues where it ended."""
    write(tmp_path / "spool" / "q", adds(30))
    arguments = ("import-journal", str(tmp_path / "spool"), "--to")
    with BrokerProcess(tmp_path / "target", config="[default]\nmax_items = 10\n") as broker:
        done = run(*arguments, broker.address)
        assert done.returncode == 5, done.stderr
        assert b"full" in done.stderr
        found = items(broker, "q")
        assert run(*arguments, broker.address).returncode == 5
        found += items(broker, "q")
        assert run(*arguments, broker.address).returncode == 0
        found += items(broker, "q")
        address = broker.address
    assert found == [b"job %d" % number for number in range(30)]
    done = run(*arguments, address, "--from-start")
    assert done.returncode == 5
    assert b"; run the same command again to continue" in done.stderr


def test_an_interrupted_import_stores_no_job_twice(tmp_path: Path, broker: BrokerProcess) -> None:
    """Ctrl-C, or the end of a terminal: what is stored is noted, and the message says how to continue."""
    write(tmp_path / "spool" / "q", adds(2500))
    with GatedProxy(broker.address) as proxy:
        arguments = ("import-journal", str(tmp_path / "spool"), "--to", proxy.address)
        stored = [0]
        for number in (signal.SIGINT, signal.SIGTERM):
            proxy.hold_after(15_000)  # in the second batch of 500
            process: subprocess.Popen[bytes] = ForkedProcess(
                [*COMMAND, *arguments], env=NO_GATEWAY, stderr=subprocess.PIPE
            )
            assert proxy.reached.wait(LIMIT_S)
            process.send_signal(number)
            proxy.gate.set()
            error = process.communicate(timeout=LIMIT_S)[1]
            assert (process.returncode, error) == (130, INTERRUPTED)
            stored.append(broker.stat("queue_q_items"))
            assert stored[-2] < stored[-1] < 2500
        assert run(*arguments).returncode == 0
    assert items(broker, "q") == [b"job %d" % number for number in range(2500)]


def test_an_import_that_is_interrupted_at_its_start_says_so(tmp_path: Path) -> None:
    """Also while it imports its modules: of an interrupt in an `exec` there Python remembers more than its own."""
    write(tmp_path / "spool" / "q", adds(1))
    (tmp_path / "program.py").write_text("""
import sys
from importlib.abc import MetaPathFinder
number = sys.argv.pop()
class Interrupts(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "gateway.migration.importing":
            exec(f"import os; os.kill(os.getpid(), {number})\\nwhile True: pass")
sys.meta_path.insert(0, Interrupts())
from gateway.cli import main
main()
""")
    arguments = ("import-journal", str(tmp_path / "spool"), "--to", "127.0.0.1:9")
    for number in (signal.SIGINT, signal.SIGTERM):
        done = run_process([sys.executable, str(tmp_path / "program.py"), *arguments, str(int(number))], env=NO_GATEWAY)
        assert (done.returncode, done.stderr) == (130, INTERRUPTED.decode())


def test_notes_of_another_import(tmp_path: Path, broker: BrokerProcess) -> None:
    """They are not used for other journals or another destination."""
    write(tmp_path / "spool" / "q", adds(3))
    arguments = ("import-journal", str(tmp_path / "spool"), "--to", broker.address)
    assert run(*arguments).returncode == 0
    write(tmp_path / "spool" / "q", adds(4))
    done = run(*arguments)
    assert done.returncode == 1
    assert b"--from-start" in done.stderr
    (tmp_path / "spool.progress").write_text("[]")
    assert run(*arguments).returncode == 1
    assert run(*arguments, "--from-start").returncode == 0


def test_notes_that_cannot_be_written(journals: Path, broker: BrokerProcess, tmp_path: Path) -> None:
    """Nothing is stored before it is certain that the import can note how far it is, and not among the journals."""
    arguments = ("import-journal", str(journals), "--to", broker.address, "--notes")
    for place in (tmp_path / "missing" / "notes", tmp_path, journals / "notes", tmp_path / ("long" * 80)):
        done = run(*arguments, str(place))
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    done = run(*arguments, str(tmp_path / ("long" * 63)))
    assert done.returncode == 1
    assert b"cannot be written: File name too long" in done.stderr
    assert broker.client().queues() == {}
    done = run("import-journal", str(journals), "--data", str(journals))
    assert (done.returncode, b"is the directory of the journals" in done.stderr) == (2, True)


def test_a_destination_that_was_emptied(journals: Path, broker: BrokerProcess) -> None:
    """The notes call the jobs stored, but they are not there: the command does not end as if they were."""
    arguments = ("import-journal", str(journals), "--to", broker.address)
    assert run(*arguments).returncode == 0
    for key in ("emails", "emails+audit"):
        broker.client().ask(b"delete %b\r\n" % key.encode())
    done = run(*arguments)
    assert done.returncode == 1
    assert b"has no queue emails, but" in done.stderr
    assert run(*arguments, "--from-start").returncode == 0
    assert len(items(broker, "emails")) == 4


def test_a_directory_without_journals(tmp_path: Path, broker: BrokerProcess) -> None:
    """Most likely it is the wrong one, so this is no success."""
    (tmp_path / "spool").mkdir()
    for way in (["--dry-run"], ["--to", broker.address]):
        done = run("import-journal", str(tmp_path / "spool"), *way)
        assert (done.returncode, b"has no journals" in done.stderr) == (3, True)


def test_names_that_fit_nothing(journals: Path, broker: BrokerProcess) -> None:
    """A mistyped name imports nothing, and says so; a name that HTTP cannot use is imported with a warning."""
    for option in ("--queue", "email"), ("--rename", "email=mail"), ("--queue", "x*"):
        for way in (["--dry-run"], ["--to", broker.address]):
            done = run("import-journal", str(journals), *way, *option)
            assert done.returncode == 3
            assert " ".join(option).encode() in done.stderr
    assert broker.client().queues() == {}
    write(journals / "a%b", adds(1))
    write(journals / "acme__mail", adds(1))
    done = run("import-journal", str(journals), "--to", broker.address)
    assert done.returncode == 0
    assert b"'a%b' is not a name that HTTP can use" in done.stderr
    assert b"acme__mail: only a gateway with the tenant or the namespace 'acme'" in done.stderr
    assert b"emails" not in done.stderr.replace(b"torn: emails", b"")


def killed_imports(tmp_path: Path, broker: BrokerProcess, *, count: int, kills: int) -> None:
    """Imports `count` items while the command is killed again and again; nothing is lost, and little is twice."""
    write(tmp_path / "spool" / "q", adds(count))
    command = [*COMMAND, "import-journal", str(tmp_path / "spool"), "--to", broker.address]
    client, lived = broker.client(), 0
    for kill in range(kills + 1):
        process: subprocess.Popen[bytes] = ForkedProcess(
            command, env=environment("http://127.0.0.1:9"), stderr=subprocess.PIPE
        )
        if kill < kills:
            target = count * (kill + 1) // (kills + 1)
            while process.poll() is None and int(client.stats().get("queue_q_total_items", 0)) < target:
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                lived += 1
        error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    assert lived, "no run was killed"
    found = Counter(items(broker, "q"))
    assert set(found) == {b"job %d" % number for number in range(count)}
    assert sum(found.values()) - count <= 500 * lived


def test_killed_imports(tmp_path: Path, broker: BrokerProcess) -> None:
    """None lost, and at most one batch twice for each kill."""
    killed_imports(tmp_path, broker, count=examples(3000, fewest=1600), kills=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "give exactly one of"),
        (["x", "--to", "nowhere"], "HOST:PORT"),
        (["x", "--to", "a:1", "--dry-run"], "give exactly one of"),
        (["x", "--dry-run", "--rename", "a"], "OLD=NEW"),
        (["x", "--dry-run", "--rename", "a=b c"], "OLD=NEW"),
        (["x", "--dry-run", "--prefix", "a/"], "prefix"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], message: str) -> None:
    """One line, exit code 2."""
    (tmp_path / "x").mkdir()
    done = run("import-journal", str(tmp_path / arguments[0]), *arguments[1:])
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
