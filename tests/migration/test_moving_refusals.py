"""What `forward` does not move: to where it came from, under names that do not fit, for options with mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway.migration.queue_names import unreadable
from tests.lab.broker import BrokerProcess
from tests.lab.commands import Commands
from tests.lab.gateway import Running, running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port

run = Commands("http://127.0.0.1:9")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway") / "data") as process:
        yield process


@dataclass(frozen=True)
class Keyed:
    """A gateway with a key for each scope, and where memcache clients reach its broker."""

    url: str
    broker: str
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder, broker = tmp_path_factory.mktemp("keyed"), f"127.0.0.1:{free_port()}"
    made = {
        each: run.text("keys", "new", "--name", each, "--scope", each) for each in ("produce", "consume", "observe")
    }
    keys = folder / "keys"
    keys.write_text("".join(each.partition("\n\n")[2] for each in made.values()))
    keys.chmod(0o600)
    with running(folder / "data", "--broker-listen", broker, "--keys", str(keys)) as process:
        yield Keyed(process.url, broker, {scope: each.partition("\n")[0] for scope, each in made.items()})


def put(address: str, key: str, *bodies: bytes) -> None:
    client = MemcacheClient(address)
    for each in bodies:
        assert client.put(key, each) == b"STORED\r\n"
    client.close()


def numbers(broker: BrokerProcess) -> dict[str, int]:
    """The items of every queue."""
    return {name: each["items"] for name, each in broker.client().queues().items()}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_to_itself(old: BrokerProcess, host: str) -> None:
    """The command ends, nothing is moved, and no queue is left behind; also with --follow, and for a chain of names."""
    put(old.address, "mail", b"1", b"2")
    same = f"{host}:{old.port}"
    for options in ([], ["--follow"], ["--prefix", "x"], ["--rename", "mail=letters"]):
        done = run("forward", "--from", old.address, "--to", same, *options)
        assert (done.returncode, b"again and again" in done.stderr) == (1, True), done.stderr
        assert numbers(old) == {"mail": 2}


def test_a_queue_of_the_same_server_under_another_name(old: BrokerProcess) -> None:
    """That ends: the new name is not one of those that are moved."""
    put(old.address, "mail", b"1", b"2")
    done = run("forward", "--from", old.address, "--to", old.address, "--queue", "mail", "--rename", "mail=letters")
    assert done.returncode == 0, done.stderr
    assert numbers(old) == {"mail": 0, "letters": 2}


def test_the_mark_of_another_forward(old: BrokerProcess, new: BrokerProcess) -> None:
    """It is no queue of the server; one with a similar name is."""
    mark = f"forward-{'0a' * 16}"
    for key in (mark, "forward-mail"):
        put(old.address, key, b"x")
    done = run("forward", "--from", old.address, "--to", new.address)
    assert done.returncode == 0, done.stderr
    assert (numbers(old), numbers(new)) == ({mark: 1, "forward-mail": 0}, {"forward-mail": 1})


def test_a_gateway_in_front_of_the_server(keyed: Keyed) -> None:
    """It is recognized; with a key that may only produce it is not, but then the command ends, too."""
    put(keyed.broker, "mail", b"1", b"2", b"3")
    arguments = ("forward", "--from", keyed.broker, "--to", keyed.url, "--key")
    seen = run(*arguments, keyed.secrets["observe"])
    assert (seen.returncode, b"again and again" in seen.stderr) == (1, True), seen.stderr
    unseen = run(*arguments, keyed.secrets["produce"])
    assert (unseen.returncode, b"gets jobs as fast as they are moved" in unseen.stderr) == (5, True), unseen.stderr
    client = MemcacheClient(keyed.broker)
    assert len(list(client.take_all("mail"))) == 3
    client.close()


def test_a_key_that_is_missing_or_may_not_produce(old: BrokerProcess, keyed: Keyed) -> None:
    """The exit code is 4, as with every command, and the jobs stay in their order."""
    bodies = [b"%d" % number for number in range(5)]
    put(old.address, "mail", *bodies)
    for options in ([], ["--key", keyed.secrets["consume"]]):
        done = run("forward", "--from", old.address, "--to", keyed.url, *options)
        assert done.returncode == 4, done.stderr
    assert list(old.client().take_all("mail")) == bodies


def test_one_bad_name_among_others(old: BrokerProcess, gateway: Running) -> None:
    """The other queues are moved, before and after it; the exit code says that not all are."""
    for key in ("a", "b__dead", "b+child", "c%", "d"):
        put(old.address, key, b"x")
    done = run("forward", "--from", old.address, "--to", gateway.url)
    assert done.returncode == 1
    assert numbers(old) == {"a": 0, "b__dead": 1, "b+child": 1, "c%": 1, "d": 0}
    for key in ("b__dead", "b+child", "c%"):
        assert f"{key} is not moved: invalid-name".encode() in done.stderr
    with gateway.client() as http:
        assert [http.get(f"/queues/{name}").json()["items"] for name in "ad"] == [1, 1]


def test_children_of_a_queue_that_is_left_out(old: BrokerProcess, new: BrokerProcess) -> None:
    """A queue with children at the destination stays; its children, and all other queues, are moved."""
    new.client().get("mail+audit/peek")
    old.client().get("mail+audit/peek")
    put(old.address, "mail", b"x")
    put(old.address, "other", b"y")
    done = run("forward", "--from", old.address, "--to", new.address)
    assert done.returncode == 1
    assert b"mail is not moved" in done.stderr
    assert numbers(old) == {"mail": 1, "mail+audit": 0, "other": 0}
    assert numbers(new) == {"mail+audit": 1, "other": 1}


def test_names_that_fit_nothing(old: BrokerProcess, new: BrokerProcess) -> None:
    """A mistyped --queue or --rename moves nothing, and the exit code is 3."""
    put(old.address, "mail", b"x")
    for option in ("--queue", "mial"), ("--rename", "mial=letters"), ("--queue", "x*"):
        done = run("forward", "--from", old.address, "--to", new.address, "--queue", "mail", *option)
        assert done.returncode == 3
        assert " ".join(option).encode() in done.stderr
    assert (numbers(old), numbers(new)) == ({"mail": 1}, {})


def test_a_port_of_something_else(old: BrokerProcess, gateway: Running) -> None:
    """A gateway's HTTP port, for example: the message says what is wanted, and nothing is tried again."""
    put(old.address, "mail", b"x")
    for source, to in ((gateway.url[7:], old.address), (old.address, gateway.url[7:])):
        done = run("forward", "--from", source, "--to", to)
        assert (done.returncode, b"does not answer like a Kestrel server" in done.stderr) == (1, True), done.stderr


def test_delayed_jobs_keep_their_queue(old: BrokerProcess, new: BrokerProcess) -> None:
    """They name it, so they are not moved where names change; pauses are left out silently."""
    for key in ("_kestrel-gateway__delay-07", "_kestrel-gateway__control", "mail"):
        put(old.address, key, b"x")
    done = run("forward", "--from", old.address, "--to", new.address, "--prefix", "acme__")
    assert done.returncode == 1
    assert b"_kestrel-gateway__delay-07 is not moved: delayed jobs" in done.stderr
    assert numbers(new) == {"acme__mail": 1}
    done = run("forward", "--from", old.address, "--to", new.address)
    assert done.returncode == 0, done.stderr
    assert numbers(new)["_kestrel-gateway__delay-07"] == 1


@pytest.mark.parametrize(
    ("name", "prefix", "warning"),
    [
        ("mail", "", ""),
        ("mail+audit", "", ""),
        ("mail__dead", "", ""),
        ("mail__audit__subdead", "", ""),
        ("_kestrel-gateway__delay-01", "", ""),
        ("acme__mail", "acme__", ""),
        ("acme__mail", "", "only a gateway with the tenant"),
        ("ns__acme__mail+audit", "", "only a gateway with the tenant"),
        ("a%b", "", "is not a name that HTTP can use"),
        ("a%b", "acme__", "is not a name that HTTP can use"),
        ("-mail", "", "is not a name that HTTP can use"),
        ("mail+au+dit", "", "is not a name that HTTP can use"),
    ],
)
def test_names_that_http_cannot_read(name: str, prefix: str, warning: str) -> None:
    """The operator learns of them before the old server is gone."""
    found = unreadable(name, prefix)
    assert warning in found
    assert bool(warning) == bool(found)
