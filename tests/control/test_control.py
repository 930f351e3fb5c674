"""The control state on real servers: what one worker writes, all others know soon, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.delivery.backend import BackendMember
from gateway.delivery.control import state
from gateway.delivery.control.control import LOOK_S, Control
from gateway.delivery.control.entries import ControlMap, EntryKind
from gateway.delivery.control.queue import ControlQueue
from gateway.delivery.control.state import ControlEntry, ControlItem, ControlState
from gateway.errors import BackendUnavailable, OutcomeUnknown
from gateway.kestrel.client import Kestrel
from gateway.leases.lease import OpenRead
from gateway.settings import Settings
from tests.kestrel.conftest import on_a_socket
from tests.kestrel.standin import StandIn
from tests.kestrel.support import until
from tests.lab.broker import BrokerProcess

KEY = "_kestrel-gateway__control"
NOTES: EntryKind[str] = EntryKind("note", pack=str, unpack=str)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker that the test may kill."""
    with on_a_socket(tmp_path) as broker:
        yield broker


class Worker:
    """A worker's control state, with its own connections. changed: names in the order of the calls."""

    def __init__(self, members: Kestrel, control: Control) -> None:
        self.members = members
        self.control = control
        self.notes: ControlMap[str] = control.view(NOTES)
        self.changed: list[str] = []
        self.notes.on_change(self.changed.append)


@contextlib.asynccontextmanager
async def worker(*addresses: str, eager: bool = True) -> AsyncIterator[Worker]:
    members = Kestrel(addresses, Settings(kestrel_connect_timeout_s=0.3))
    await members.start()
    control = Control(members.each_member, KEY, eager=eager)
    made = Worker(members, control)
    await control.start()
    try:
        yield made
    finally:
        await control.close()
        await members.close()


@on_a_loop
async def test_a_change_is_known_everywhere_and_survives_a_restart(own_broker: BrokerProcess) -> None:
    """Another worker knows it within two looks; one that starts after the broker was killed knows it."""
    async with worker(own_broker.address) as one, worker(own_broker.address, eager=False) as two:
        assert (await one.notes.set("a", "x")).asked == 1
        assert one.notes.get("a") == "x"
        await until(lambda: two.notes.get("a") == "x", 2 * LOOK_S + 0.5)
        assert two.changed == ["a"]
        await two.notes.delete("a")
        await two.notes.set("b", "y")
        await until(lambda: one.notes.get("b") == "y", 2 * LOOK_S + 0.5)
        assert one.notes.get("a") is None
        assert one.notes.deleted_at("a") == pytest.approx(two.notes.deleted_at("a"))
    own_broker.kill()
    own_broker.start()
    async with worker(own_broker.address) as later:
        assert dict(later.notes.items()) == {"b": "y"}
        assert later.notes.deleted_at("a") is not None


@pytest.mark.parametrize("server", ["embedded", "standin"])
@on_a_loop
async def test_writers_that_meet_lose_nothing(server: str, tmp_path: Path) -> None:
    """Six workers write at once, some are cut off: every write that returned is found, in one item."""
    async with contextlib.AsyncExitStack() as stack:
        if server == "embedded":
            address = stack.enter_context(on_a_socket(tmp_path)).address
        else:
            address = (await stack.enter_async_context(StandIn())).address
        workers = [await stack.enter_async_context(worker(address)) for _ in range(6)]
        done: set[str] = set()

        async def write(number: int) -> None:
            for count in range(5):
                name = f"{number}-{count}"
                task = asyncio.ensure_future(workers[number].notes.set(name, "x"))
                if number >= 4 and count % 2:
                    await asyncio.wait([task], timeout=random.uniform(0, 0.02))
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                    done.add(name)

        await asyncio.gather(*map(write, range(6)))
        assert len(done) >= 24
        async with worker(address) as later:
            await until(lambda: later.notes.items().keys() >= done, 30)
            queue = ControlQueue(later.members.each_member()[0], KEY)
            await queue.settle()
            assert await queue.count() == 1


def written(name: str) -> ControlState:
    """A state with this entry only: its writer knows nothing else."""
    return ControlState([(("note", name), ControlEntry(1, "x"))])


@on_a_loop
async def test_two_writers_at_once_leave_one_item_with_the_entries_of_both(own_broker: BrokerProcess) -> None:
    """At once, also without what the writers remember: whoever reads the server then knows both."""
    async with worker(own_broker.address) as one, worker(own_broker.address) as two:
        await asyncio.gather(one.control.close(), two.control.close())
        queues = [ControlQueue(each.members.each_member()[0], KEY) for each in (one, two)]
        for number in range(20):
            both = [written(f"{number}-{name}") for name in "ab"]
            await asyncio.gather(*(queue.write(own) for queue, own in zip(queues, both, strict=True)))
            item = await queues[0].read()
            assert item is not None
            assert all(item.state.covers(own) for own in both), number
            assert await queues[0].count() == 1


class Gated:
    """A member. Its first take that finds nothing more sets `reached`, and then waits for `go_on`."""

    def __init__(self, member: BackendMember, reached: asyncio.Event, go_on: asyncio.Event) -> None:
        self._member = member
        self._reached = reached
        self._go_on = go_on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    async def take(self, key: str, tenant: str = "") -> OpenRead | None:
        read = await self._member.take(key, tenant)
        if read is None:
            self._reached.set()
            await self._go_on.wait()
        return read


@on_a_loop
async def test_a_writer_waits_for_one_that_has_its_item_set_aside(own_broker: BrokerProcess) -> None:
    """Each has taken its own item, so neither sees that of the other; one of them goes on until it does."""
    async with worker(own_broker.address) as one, worker(own_broker.address) as two:
        await asyncio.gather(one.control.close(), two.control.close())
        first, second = asyncio.Event(), asyncio.Event()
        queues = [
            ControlQueue(Gated(one.members.each_member()[0], first, second), KEY),
            ControlQueue(Gated(two.members.each_member()[0], second, first), KEY),
        ]
        writing = asyncio.create_task(queues[0].write(written("a")))
        await first.wait()
        await asyncio.gather(writing, queues[1].write(written("b")))
        item = await queues[0].read()
        assert item is not None
        assert {name for _, name in item.state} == {"a", "b"}
        assert await queues[0].count() == 1


@pytest.mark.parametrize("limit", [{"KEPT_S": 1}, {"TOMBSTONES": 2}])
@on_a_loop
async def test_a_forgotten_deletion_is_not_written_again(
    own_broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
) -> None:
    """A worker that runs for a month forgets it as the server does; otherwise it would write it again and again."""
    for name, value in limit.items():
        monkeypatch.setattr(state, name, value)
    async with worker(own_broker.address) as one:
        for number in range(4):
            await one.notes.delete(str(number))
        await until(lambda: one.notes.deleted_at("0") is None, 30)
        written = own_broker.stat(f"queue_{KEY}_total_items")
        await asyncio.sleep(6 * LOOK_S)  # it writes what is missing after two looks
        assert own_broker.stat(f"queue_{KEY}_total_items") == written


@on_a_loop
async def test_a_flushed_member_gets_everything_back(own_broker: BrokerProcess) -> None:
    """`flush_all` and `delete` by a memcache client change nothing that a worker knows, and the item comes back."""
    async with worker(own_broker.address) as one:
        await one.notes.set("a", "x")
        for command in ("flush_all", f"delete {KEY}"):
            own_broker.ask(command)
            await asyncio.sleep(LOOK_S)
            assert one.notes.get("a") == "x"
            await until(lambda: own_broker.stat(f"queue_{KEY}_items") == 1, 30)
        async with worker(own_broker.address) as later:
            assert later.notes.get("a") == "x"


@on_a_loop
async def test_a_member_that_returns_is_brought_up_to_date(tmp_path: Path) -> None:
    """It gets what was written and deleted while it was away; what it still had does not come back."""
    brokers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        brokers.append(on_a_socket(tmp_path / name))
    second = brokers[1]
    try:
        addresses = [each.address for each in brokers]
        async with worker(*addresses) as one:
            assert str(await one.notes.set("gone", "x")) == "2/2"
            second.kill()
            assert str(await one.notes.delete("gone")) == "1/2"
            await one.notes.set("new", "y")
            second.start()
            await asyncio.sleep(0)
            first_seen = asyncio.get_running_loop().time()
            while True:
                async with worker(second.address, eager=False) as other:
                    if other.notes.get("new") == "y":
                        assert other.notes.get("gone") is None
                        break
                assert asyncio.get_running_loop().time() - first_seen < 8
                await asyncio.sleep(0.1)
            assert dict(one.notes.items()) == {"new": "y"}
    finally:
        for each in brokers:
            each.close()


@on_a_loop
async def test_without_a_member_nothing_changes(own_broker: BrokerProcess) -> None:
    """A change that no member stores is refused, and is not known here either."""
    async with worker(own_broker.address) as one:
        await one.notes.set("a", "x")
        own_broker.kill()
        with pytest.raises((BackendUnavailable, OutcomeUnknown)):
            await one.notes.set("a", "y")
        with pytest.raises(BackendUnavailable):
            await one.notes.delete("a")
        assert one.notes.get("a") == "x"
        assert one.control.known


@on_a_loop
async def test_a_worker_knows_nothing_before_a_member_was_read(own_broker: BrokerProcess) -> None:
    """While no member answers the state is unknown; it is known soon after one does."""
    own_broker.kill()
    async with worker(own_broker.address) as one:
        assert not one.control.known
        own_broker.start()
        await until(lambda: one.control.known, 30)


@on_a_loop
async def test_what_was_read_before_the_servers_were_lost_is_not_read_again(own_broker: BrokerProcess) -> None:
    """Without a member that answers nothing was read, however much is known; when one answers again, it was."""
    async with worker(own_broker.address) as one:
        await one.notes.set("a", "x")
        assert await one.control.read_again(1)
        own_broker.kill()
        await until(lambda: not one.members.each_member()[0].reads, 30)
        assert not await one.control.read_again(0.1)
        own_broker.start()
        assert await one.control.read_again(10)


@on_a_loop
async def test_what_killed_writers_left_is_found(own_broker: BrokerProcess) -> None:
    """Two items, each with an entry that the other lacks, whose writers died: a new worker soon knows both, in one."""
    async with worker(own_broker.address) as one:
        member = one.members.each_member()[0]
        for name in ("a", "b"):
            state = ControlState([(("note", name), ControlEntry(1_800_000_000_000, name))])
            await member.put(KEY, ControlItem(name, state).pack())
        await until(lambda: one.notes.items().keys() == {"a", "b"}, 30)
        queue = ControlQueue(member, KEY)
        await until(lambda: own_broker.stat(f"queue_{KEY}_items") == 1, 30)
        found = await queue.read()
        assert found is not None
        assert len(found.state) == 2
