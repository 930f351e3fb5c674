"""Servers that publish themselves in a real ZooKeeper: they come, stay and go; ZooKeeper stops and starts."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
import threading
import time

import pytest

from gateway.kestrel.client import Kestrel
from gateway.kestrel.discovery import zookeeper as watching
from gateway.kestrel.health import Health
from gateway.settings import Settings
from tests.kestrel import zookeeper
from tests.kestrel.standin import StandIn
from tests.kestrel.support import until
from tests.kestrel.zookeeper import ZooKeeper, instance
from tests.lab.commands import run_process
from tests.lab.gateway import running
from tests.lab.ports import free_port

real = pytest.mark.skipif(zookeeper.missing() is not None, reason=str(zookeeper.missing()))
_prefixes = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A ZooKeeper that tests leave alive."""
    server = ZooKeeper(tmp_path_factory.mktemp("zookeeper"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own(tmp_path):
    """A ZooKeeper that the test starts, and may kill."""
    server = ZooKeeper(tmp_path)
    yield server
    server.kill()


@contextlib.contextmanager
def session(server):
    """The session in which servers publish themselves, and an unused prefix."""
    kestrels = server.client()
    try:
        yield kestrels, f"/kestrel/jobs-{next(_prefixes)}"
    finally:
        kestrels.close()


@contextlib.asynccontextmanager
async def reached(server, prefix, *others, resolve_s=3600.0):
    """A gateway's client with the members of that prefix. By default it looks only on a change."""
    threads = set(threading.enumerate())
    kestrel = Kestrel([f"zk:{server.address}{prefix}", *others], Settings(kestrel_resolve_s=resolve_s))
    await kestrel.start()
    try:
        yield kestrel
    finally:
        await kestrel.close()
    await until(lambda: set(threading.enumerate()) <= threads | set(filter(pooled, threading.enumerate())), 10)


def pooled(thread):
    """Whether a thread is the event loop's own, for names and files."""
    return thread.name.startswith("asyncio_")


def standing(kestrel):
    """The members, and the state of each."""
    return {each.address: each.state for each in kestrel.backends() if not each.leaving}


async def off(function, *arguments):
    """Runs what would block the loop."""
    return await asyncio.to_thread(function, *arguments)


@pytest.mark.slow
@real
def test_servers_come_stand_and_go(shared):
    """In both sets UP, only in `read` READONLY, in none gone; what is no member is left out."""

    async def main():
        with session(shared) as (kestrels, prefix):
            async with StandIn() as one, StandIn() as two, reached(shared, prefix) as kestrel:
                assert not kestrel.available
                assert standing(kestrel) == {}
                read, write = f"{prefix}/read", f"{prefix}/write"
                ones = [await off(kestrels.join, read, one.address), await off(kestrels.join, write, one.address)]
                await until(lambda: standing(kestrel) == {one.address: Health.UP})
                await off(kestrels.join, read, two.address)
                await until(lambda: standing(kestrel) == {one.address: Health.UP, two.address: Health.READONLY})
                for number in range(20):
                    await kestrel.put("q", b"%d" % number)
                assert len(one.queues["q"]) == 20
                node = await off(kestrels.join, write, two.address)
                await until(lambda: standing(kestrel) == {one.address: Health.UP, two.address: Health.UP})
                await off(kestrels.kazoo.set, node, instance(two.address, status="STOPPING"))
                await until(lambda: standing(kestrel)[two.address] is Health.READONLY)
                await off(kestrels.kazoo.set, node, b"nonsense")
                await off(kestrels.join, write, two.address)
                await until(lambda: standing(kestrel)[two.address] is Health.UP)
                await off(kestrels.leave, *ones)
                await until(lambda: standing(kestrel) == {two.address: Health.UP})
                await until(lambda: not one.sessions)
                await kestrel.put("q", b"x")
                assert list(two.queues["q"]) == [b"x"]

    asyncio.run(main())


@pytest.mark.slow
@real
def test_a_name_in_the_settings_outweighs(shared):
    """A server that is named is written to, whatever it publishes; it stays when it publishes nothing."""

    async def main():
        with session(shared) as (kestrels, prefix):
            async with StandIn() as one, StandIn() as two, reached(shared, prefix, one.address) as kestrel:
                await until(lambda: standing(kestrel) == {one.address: Health.UP})
                node = await off(kestrels.join, f"{prefix}/read", one.address)
                await off(kestrels.join, f"{prefix}/read", two.address)
                await until(lambda: standing(kestrel) == {one.address: Health.UP, two.address: Health.READONLY})
                other = f"{prefix}/write"
                await off(kestrels.join, other, two.address)
                await off(kestrels.leave, node)
                await until(lambda: standing(kestrel) == {one.address: Health.UP, two.address: Health.UP})

    asyncio.run(main())


@pytest.mark.slow
@real
def test_an_empty_set_takes_nobody_out(shared, caplog):
    """All gone at once is logged, and changes nothing; the first that comes afterwards is then the only one."""
    caplog.set_level(logging.INFO)

    async def main():
        with session(shared) as (kestrels, prefix):
            async with StandIn() as one, StandIn() as two, reached(shared, prefix) as kestrel:
                node = await off(kestrels.join, f"{prefix}/write", one.address)
                await until(lambda: standing(kestrel) == {one.address: Health.UP})
                await off(kestrels.leave, node)
                await until(lambda: f"lists no server; using the last known servers: {one.address}" in caplog.text)
                await kestrel.put("q", b"x")
                await off(kestrels.join, f"{prefix}/write", two.address)
                await until(lambda: standing(kestrel) == {two.address: Health.UP})

    asyncio.run(main())


@pytest.mark.slow
@real
def test_a_set_comes_and_goes_with_the_members_file(shared, tmp_path, caplog):
    """On a reload, as names do; its session ends with it. One that lists nobody yet takes nobody's place."""
    caplog.set_level(logging.INFO)

    async def main():
        file = tmp_path / "members"
        with session(shared) as (kestrels, prefix):
            async with StandIn() as one, StandIn() as two:
                await off(kestrels.join, f"{prefix}/write", two.address)
                file.write_text(f"{one.address}\n")
                before = await off(shared.connections)
                kestrel = Kestrel([], Settings(), file)
                await kestrel.start()
                try:
                    await until(lambda: standing(kestrel) == {one.address: Health.UP})
                    file.write_text(f"zk:{shared.address}{prefix}-later\n")
                    await kestrel.reload()
                    await until(lambda: "-later lists no server" in caplog.text)
                    assert standing(kestrel) == {one.address: Health.UP}
                    file.write_text(f"zk:{shared.address}{prefix}\n")
                    await kestrel.reload()
                    assert standing(kestrel) == {one.address: Health.UP}, "until the others are known"
                    await until(lambda: standing(kestrel) == {two.address: Health.UP})
                    await off(shared.has, before + 1)
                    file.write_text(f"{one.address}\n")
                    await kestrel.reload()
                    await until(lambda: standing(kestrel) == {one.address: Health.UP})
                    await off(shared.has, before)
                    assert f"Kestrel at {two.address} is no longer a member" in caplog.text
                finally:
                    await kestrel.close()

    asyncio.run(main())


@pytest.mark.slow
@real
def test_an_expired_session_loses_no_news(shared, caplog):
    """Its watches are gone with it: everything is read anew in the next session, and watched."""
    caplog.set_level(logging.INFO)

    async def main():
        with session(shared) as (kestrels, prefix):
            async with StandIn() as one, StandIn() as two, reached(shared, prefix) as kestrel:
                await off(kestrels.join, f"{prefix}/write", one.address)
                await until(lambda: standing(kestrel) == {one.address: Health.UP})
                before = clients[-1].client_id
                await off(lambda: shared.client(before).close())  # any client with the id may end the session
                await until(lambda: clients[-1].connected and clients[-1].client_id[0] != before[0], 10)
                await off(kestrels.join, f"{prefix}/write", two.address)
                await until(lambda: set(standing(kestrel)) == {one.address, two.address}, 10)

    clients = []
    with remembered(clients):
        asyncio.run(main())


@contextlib.contextmanager
def remembered(clients):
    """Keeps the gateway's own ZooKeeper client at hand, to read its session's id."""
    look = watching.Watch._look

    def noted(self, client):
        clients.append(client)
        return look(self, client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching.Watch, "_look", noted)
        yield


@pytest.mark.slow
@real
def test_a_zookeeper_that_is_away_stops_nothing(own, caplog):
    """Absent at first; killed, while the members stay and work; there again, with what has changed since."""
    caplog.set_level(logging.INFO)

    async def main():
        prefix = "/kestrel"
        async with StandIn() as one, StandIn() as two, reached(own, prefix) as kestrel:
            await until(lambda: "cannot be reached" in caplog.text, 10)
            assert not kestrel.available
            await off(own.start)
            kestrels = await off(own.client)
            await off(kestrels.join, f"{prefix}/write", one.address)
            await until(lambda: standing(kestrel) == {one.address: Health.UP}, 15)
            caplog.clear()
            await off(own.kill)
            await until(lambda: f"using the last known servers: {one.address}" in caplog.text, 10)
            await kestrel.put("q", b"x")
            assert kestrel.available
            await off(own.start)
            await off(kestrels.join, f"{prefix}/write", two.address)
            await until(lambda: set(standing(kestrel)) == {one.address, two.address}, 20)
            assert f"zk:{own.address}{prefix} lists " in caplog.text
            await off(kestrels.close)

    asyncio.run(main())


@pytest.mark.slow
@real
def test_a_client_that_reaches_nobody_is_made_anew_and_one_that_does_is_kept(own, monkeypatch):
    """A quiet session is kept however long; a client that reaches no server for long is replaced by a new one."""
    monkeypatch.setattr(watching, "PATIENCE_S", 0.1)
    monkeypatch.setattr(watching, "RETRY_S", 0.02)
    monkeypatch.setattr(watching, "RENEW_S", 0.2)

    async def main():
        async with StandIn() as one, StandIn() as two, reached(own, "/kestrel") as kestrel:
            await until(lambda: len(set(clients)) > 1, 10)
            monkeypatch.setattr(watching, "RENEW_S", 5.0)
            await off(own.start)
            kestrels = await off(own.client)
            await off(kestrels.join, "/kestrel/write", one.address)
            await until(lambda: standing(kestrel) == {one.address: Health.UP}, 15)
            monkeypatch.setattr(watching, "RENEW_S", 0.01)
            before = clients[-1]
            await asyncio.sleep(0.1)
            await off(kestrels.join, "/kestrel/write", two.address)
            await until(lambda: set(standing(kestrel)) == {one.address, two.address})
            assert clients[-1] is before
            await off(kestrels.close)

    clients = []
    with remembered(clients):
        asyncio.run(main())


@pytest.mark.slow
@real
def test_a_frozen_zookeeper_holds_up_nobody(own):
    """The loop turns on, reloads and the end do not wait for it."""

    async def main():
        await off(own.start)
        with session(own) as (kestrels, prefix):
            async with StandIn() as one, reached(own, prefix, resolve_s=0.1) as kestrel:
                await off(kestrels.join, f"{prefix}/write", one.address)
                await until(lambda: standing(kestrel) == {one.address: Health.UP}, 15)
                own.freeze()
                try:
                    async with asyncio.timeout(10):  # a question to the frozen one has no answer before it is thawed
                        await kestrel.reload()
                        for number in range(100):
                            await kestrel.put("q", b"%d" % number)
                    assert standing(kestrel) == {one.address: Health.UP}
                    async with asyncio.timeout(watching.CLOSE_S + 1):
                        await kestrel.close()
                finally:
                    own.thaw()

    asyncio.run(main())


@pytest.mark.slow
@real
def test_a_gateway_as_users_run_it(shared, tmp_path):
    """Ready once a member is up; each worker has one session, which ends with it."""
    with session(shared) as (kestrels, prefix), running(tmp_path / "broker", *broker_flags()) as broker:
        address = f"127.0.0.1:{broker.flags[1].rpartition(':')[2]}"
        kestrels.join(f"{prefix}/read", address)
        kestrels.join(f"{prefix}/write", address)
        before = shared.connections()
        with running(tmp_path / "gateway", "--kestrel", f"zk:{shared.address}{prefix}", "--workers", "2") as gateway:
            with gateway.client() as http:
                deadline_s = time.monotonic() + 10  # a worker that does not know a member yet answers 503
                while (status := http.post("/queues/q/jobs", content=b"x").status_code) == 503:
                    assert time.monotonic() < deadline_s
                    time.sleep(0.05)
                assert status == 201
                assert [each["server"] for each in http.get("/backends").json()["backends"]] == [address]
            shared.has(before + 2)
            assert gateway.stop() == 0
        shared.has(before)


def broker_flags():
    return "--broker-listen", f"127.0.0.1:{free_port()}"


def test_without_kazoo_it_is_said(tmp_path):
    """One line that names the extra, and the exit code of a bad setting."""
    (tmp_path / "main.py").write_text("import sys; sys.modules['kazoo'] = None\nfrom gateway.cli import main\nmain()\n")
    command = [sys.executable, tmp_path / "main.py", "serve", "--kestrel", "zk:127.0.0.1:2181/kestrel"]
    path = os.pathsep.join(each for each in sys.path if each)
    told = run_process(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "pip install 'kestrel-gateway[zookeeper]'" in told.stderr


def examined(*flags):
    """Exit code, findings about servers, and what is on standard error."""
    command = [sys.executable, "-m", "gateway", "doctor", "--json", "--port", f"{free_port()}", *flags]
    done = run_process(command)
    found = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "server"]
    return done.returncode, [(each["verdict"], each["text"]) for each in found], done.stderr


@pytest.mark.slow
@real
def test_doctor_asks_the_servers_of_a_set(shared, tmp_path):
    """Each registered server has a line, a dead one an error; a set without servers says where to look."""
    data = ("--data", str(tmp_path / "data"))
    with session(shared) as (kestrels, prefix), running(tmp_path / "broker", *broker_flags()) as broker:
        address = f"127.0.0.1:{broker.flags[1].rpartition(':')[2]}"
        where = f"zk:{shared.address}{prefix}"
        advice = "check the path, and `zookeeper` in Kestrel's configuration"
        nobody = ("error", f"{where}: ZooKeeper lists no server; {advice}")
        assert examined(*data, "--kestrel", where) == (1, [nobody], "")
        kestrels.join(f"{prefix}/read", address)
        kestrels.join(f"{prefix}/write", address)
        code, found, told = examined(*data, "--kestrel", where)
        assert (code, [verdict for verdict, _ in found], told) == (0, ["ok"], "")
        assert found[0][1].startswith(f"{address}: version 2.4.8, answers in ")
        dead = f"127.0.0.1:{free_port()}"
        kestrels.join(f"{prefix}/read", dead)
        code, found, told = examined(*data, "--kestrel", where)
        assert (code, sorted(verdict for verdict, _ in found), told) == (1, ["error", "ok"], "")
        assert ("error", f"{dead}: Connection refused") in found


def test_doctor_without_a_zookeeper(tmp_path):
    """An error that names the set, in the report only."""
    where = f"zk:127.0.0.1:{free_port()}/kestrel"
    found = examined("--data", str(tmp_path / "data"), "--kestrel", where)
    assert found == (1, [("error", f"{where}: ZooKeeper cannot be reached at these addresses")], "")
