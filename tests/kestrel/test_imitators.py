"""The same jobs on Kestrel and on what imitates it, alone and mixed: what one lacks, the client makes up for.

Stand-ins answer as the table in kestrel-wire.md says; Siberite itself is asked where it is installed (`siberite` on
the path, or where `go install` puts it), and Kestrel itself where KESTREL_GATEWAY_TEST_KESTREL says where one listens:
queue `q` of it is emptied.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from gateway.errors import BackendUnavailable, NotSupported
from gateway.kestrel.health import Health
from tests.kestrel.standin import Manners, StandIn, darner, siberite
from tests.kestrel.support import client, until
from tests.lab.lifeline import lifeline
from tests.lab.ports import free_port


def old_kestrel() -> Manners:
    """Kestrel before `confirm` and `status`."""
    return Manners(version="2.1.5", confirm=False, status="")


def one_open_read() -> Manners:
    """Kestrel with the default maxOpenTransactions."""
    return Manners(open_reads=1)


def found_siberite() -> str | None:
    """Where the program is."""
    return shutil.which("siberite") or shutil.which("siberite", path=Path.home() / "go" / "bin")


class Siberite:
    """The real one, as a process."""

    def __init__(self, directory: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        program = found_siberite()
        assert program is not None
        self.process = subprocess.Popen(
            [program, "-listen", self.address, "-data", str(directory)],
            stdin=lifeline(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.process.kill()
        self.process.wait(10)


class Given:
    """A Kestrel that was started outside the tests."""

    def __init__(self, _directory: Path) -> None:
        self.address = os.environ["KESTREL_GATEWAY_TEST_KESTREL"]

    async def __aenter__(self):
        async with client(self.address) as kestrel:
            await kestrel.delete("q")
        return self

    async def __aexit__(self, *_):
        pass


original = pytest.param(
    Given,
    id="kestrel itself",
    marks=pytest.mark.skipif(
        "KESTREL_GATEWAY_TEST_KESTREL" not in os.environ,
        reason="KESTREL_GATEWAY_TEST_KESTREL does not say where a Kestrel listens",
    ),
)
real = pytest.param(
    Siberite,
    id="siberite itself",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(
            found_siberite() is None,
            reason="siberite is not installed; with Go: go install github.com/bogdanovich/siberite@latest",
        ),
    ],
)
KINDS = [Manners, one_open_read, old_kestrel, darner, siberite]
every_kind = pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, id=kind.__name__) for kind in KINDS), real, original]
)


@contextlib.asynccontextmanager
async def reached(kind, directory, *others, **settings):
    """A client of one server of that kind, beside others."""
    server = StandIn(kind()) if kind in KINDS else kind(directory)
    async with server, client(server.address, *others, ready=False, **settings) as kestrel:
        await until(lambda: all(each.state is Health.UP for each in kestrel.backends()), 10)
        yield kestrel


@every_kind
def test_a_job_is_stored_taken_and_acked(kind, tmp_path):
    """Byte for byte, in order, and gone after its ack."""

    async def main():
        items = [b"first", b"\r\nEND\r\n", bytes(range(256)), b"x" * 300_000]
        async with reached(kind, tmp_path) as kestrel:
            for item in items:
                await kestrel.put("q", item)
            for item in items:
                read = await kestrel.wait("q", 2).result()
                assert read.data == item
                await read.confirm()
            assert await kestrel.wait("q", 0).result() is None
            stats = (await kestrel.queue_stats()).queues
            assert stats["q"].items == stats["q"].open_reads == 0

    asyncio.run(main())


@every_kind
def test_an_empty_item_comes_back_or_is_refused(kind, tmp_path):
    """Siberite loses it and Darner changes it: there it is refused, alone and in a batch, and nothing is sent."""

    async def main():
        async with reached(kind, tmp_path) as kestrel:
            if kind in (darner, siberite, Siberite):
                with pytest.raises(NotSupported, match="empty"):
                    await kestrel.put("q", b"")
                refused, stored = await kestrel.put_many("q", [(b"", 0), (b"x", 0)])
                assert (type(refused), stored) == (NotSupported, None)
            else:
                await kestrel.put("q", b"")
                assert await kestrel.put_many("q", [(b"x", 0)]) == [None]
                read = await kestrel.wait("q", 2).result()
                assert read.data == b""
                await read.confirm()
            read = await kestrel.wait("q", 2).result()
            assert read.data == b"x"
            await read.confirm()
            assert await kestrel.wait("q", 0).result() is None

    asyncio.run(main())


@pytest.mark.parametrize("kind", [darner, siberite])
def test_an_empty_item_goes_to_a_server_that_keeps_it(kind):
    """Beside a Kestrel all of them are stored there; while that one is down they may be sent again later."""

    async def main():
        async with StandIn(kind()) as imitator:
            async with StandIn() as beside, client(imitator.address, beside.address, ready=False) as kestrel:
                await until(lambda: all(each.state is Health.UP for each in kestrel.backends()), 10)
                for _ in range(20):
                    await kestrel.put("q", b"")
                    assert await kestrel.put_many("q", [(b"", 0)]) == [None]
                assert (await kestrel.queue_stats()).queues["q"].items == 40
                assert len(beside.queues["q"]) == 40
            async with client(imitator.address, "127.0.0.1:1", ready=False) as kestrel:
                await until(lambda: any(each.state is Health.UP for each in kestrel.backends()), 10)
                with pytest.raises(BackendUnavailable):
                    await kestrel.put("q", b"")

    asyncio.run(main())


@every_kind
def test_several_leases_may_be_open_at_once(kind, tmp_path):
    """Where a connection has one open read, each lease has a connection of its own; they settle in any order."""

    async def main():
        async with reached(kind, tmp_path) as kestrel:
            for i in range(10):
                await kestrel.put("q", b"%d" % i)
            reads = [await kestrel.wait("q", 2).result() for _ in range(10)]
            assert [read.data for read in reads] == [b"%d" % i for i in range(10)]
            for read in reversed(reads[5:]):
                await read.confirm()
            for read in reversed(reads[:5]):
                await read.abort()
            again = [await kestrel.wait("q", 2).result() for _ in range(5)]
            assert sorted(read.data for read in again) == [b"%d" % i for i in range(5)]
            await asyncio.gather(*(read.confirm() for read in again))
            assert await kestrel.wait("q", 0).result() is None

    asyncio.run(main())


@every_kind
def test_a_vanished_consumer_s_job_comes_back(kind, tmp_path):
    """Closing the connection is the give-back that all of them know."""

    async def main():
        async with reached(kind, tmp_path) as kestrel:
            await kestrel.put("q", b"x")
            for _ in range(5):
                read = await kestrel.wait("q", 2).result()
                assert read.data == b"x"
                read.give_back()
            read = await kestrel.wait("q", 2).result()
            await read.confirm()

    asyncio.run(main())


@every_kind
def test_parked_polls_get_what_comes(kind, tmp_path):
    """Twenty polls wait, twenty jobs come: each gets one, also where `t=` is ignored; none waits for nothing."""

    async def main():
        async with reached(kind, tmp_path) as kestrel:
            polls = [asyncio.ensure_future(kestrel.wait("q", 10).result()) for _ in range(20)]
            await asyncio.sleep(0.3)
            for i in range(20):
                await kestrel.put("q", b"%d" % i)
            reads = await asyncio.gather(*polls)
            assert sorted(int(read.data) for read in reads) == list(range(20))
            await asyncio.gather(*(read.confirm() for read in reads))
            began = time.monotonic()
            assert await kestrel.wait("q", 0.3).result() is None
            assert time.monotonic() - began > 0.29

    asyncio.run(main())


@every_kind
def test_a_queue_is_deleted(kind, tmp_path):
    """With its jobs; it comes to be again."""

    async def main():
        async with reached(kind, tmp_path) as kestrel:
            await kestrel.put("q", b"x")
            assert str(await kestrel.delete("q")) == "1/1"
            assert await kestrel.wait("q", 0).result() is None
            await kestrel.put("q", b"y")
            read = await kestrel.wait("q", 2).result()
            assert read.data == b"y"
            await read.confirm()

    asyncio.run(main())


@every_kind
def test_a_mixed_cluster_is_one_queue(kind, tmp_path):
    """Beside a Kestrel: polls are served by both, each job once, figures are added up."""

    async def main():
        async with StandIn() as beside, reached(kind, tmp_path, beside.address) as kestrel:
            await kestrel.put("q", b"make the queue")
            await (await kestrel.wait("q", 2).result()).confirm()
            polls = [asyncio.ensure_future(kestrel.wait("q", 10).result()) for _ in range(20)]
            for i in range(20):
                await kestrel.put("q", b"%d" % i)
            reads = await asyncio.gather(*polls)
            assert sorted(int(read.data) for read in reads) == list(range(20))
            await asyncio.gather(*(read.confirm() for read in reads))
            assert (await kestrel.queue_stats()).queues["q"].items == 0
            assert 0 < len(beside.confirmed) < 21

    asyncio.run(main())
