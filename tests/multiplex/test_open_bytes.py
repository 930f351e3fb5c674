"""The bytes of a worker's open items are limited, in all and per tenant; nothing is lost, and who waits is served."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from gateway.common.multiplex.frames import FrameKind
from gateway.common.multiplex.messages import SHARE_UNITS, Code
from tests.multiplex.client import MultiplexClient, Rig

ITEM = b"x" * 400


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("broker") / "data") as rig:
        yield rig


@pytest.fixture
def limited(broker: Rig) -> Iterator[MultiplexClient]:
    """A worker that may have 1,000 bytes open, and a tenant of it half of what the others leave."""
    with contextlib.closing(broker.worker(open_bytes=1000, share=SHARE_UNITS // 2)) as worker:
        yield worker


@pytest.fixture
def alone(broker: Rig) -> Iterator[MultiplexClient]:
    """A worker that may have 1,000 bytes open, without shares."""
    with contextlib.closing(broker.worker(open_bytes=1000)) as worker:
        yield worker


@pytest.fixture
def other(broker: Rig) -> Iterator[MultiplexClient]:
    """A worker without a limit."""
    with contextlib.closing(broker.worker()) as worker:
        yield worker


def test_an_item_without_room_stays_on_its_queue(alone, other):
    """The open that does not wait ends with NO_ROOM; the item is still the first one, also for another worker."""
    alone.put("stays", ITEM + b"1", ITEM + b"2", ITEM + b"3")
    first, second = alone.item("stays"), alone.item("stays")
    assert alone.take("stays") is Code.NO_ROOM
    assert other.item("stays")[1] == ITEM + b"3"
    assert alone.take("stays") is Code.EMPTY
    assert alone.confirm(first[0], second[0]) == [Code.OK, Code.OK]


@pytest.mark.parametrize("how", [FrameKind.CONFIRM, FrameKind.ABORT])
def test_a_waiting_open_is_served_when_room_returns(alone, how):
    """By a confirm as by an abort; before that, nothing comes."""
    key = f"returns-{how}"
    alone.put(key, ITEM + b"1", ITEM + b"2", ITEM + b"3")
    held, _ = alone.item(key), alone.item(key)
    waits = alone.open(key, wait_ms=20_000)
    assert alone.nothing_comes()
    assert alone.settle(how, held[0]) == [Code.OK]
    expected = ITEM + (b"3" if how is FrameKind.CONFIRM else b"1")
    assert alone.answer(waits) == (waits, expected)


def test_a_waiting_open_without_room_ends_at_its_time(alone):
    """Like any other; the item stays."""
    alone.put("ends", ITEM, ITEM, ITEM + b"3")
    ids = [alone.item("ends")[0], alone.item("ends")[0]]
    assert alone.take("ends", wait_ms=50) is Code.EMPTY
    assert alone.take("ends") is Code.NO_ROOM
    alone.confirm(*ids)
    assert alone.drain("ends") == [ITEM + b"3"]


def test_room_returns_with_an_item_that_the_broker_takes_back(alone, broker):
    """A deleted queue's items count no longer."""
    alone.put("deleted", ITEM, ITEM)
    alone.put("kept", ITEM)
    alone.item("deleted")
    alone.item("deleted")
    waits = alone.open("kept", wait_ms=20_000)
    broker.ask("delete deleted")
    assert alone.answer(waits) == (waits, ITEM)


def test_a_passed_over_open_gets_the_next_item_that_fits(alone, other):
    """Another worker takes the large one that was in its way."""
    alone.put("next", ITEM, ITEM, ITEM, b"small")
    alone.item("next")
    alone.item("next")
    waits = alone.open("next", wait_ms=20_000)
    assert alone.nothing_comes()
    assert other.item("next")[1] == ITEM
    assert alone.answer(waits) == (waits, b"small")


def test_no_tenant_takes_more_than_its_share(limited):
    """Half of what the others leave; another tenant finds room, as a waiting open does."""
    limited.put("a", *[b"x" * 200] * 4)
    limited.put("b", *[b"x" * 200] * 4)
    assert not isinstance(limited.take("a", tenant="a"), Code)
    assert not isinstance(limited.take("a", tenant="a"), Code)
    assert limited.take("a", tenant="a") is Code.NO_ROOM
    assert not isinstance(limited.take("b", tenant="b", wait_ms=1000), Code)
    assert limited.take("b", tenant="b") is Code.NO_ROOM


def test_an_item_above_the_limit_comes_when_nothing_is_open(limited):
    """It could never be delivered otherwise; a second one waits."""
    limited.put("large", b"x" * 5000, b"y" * 5000)
    id_, item = limited.take("large", tenant="a")
    assert len(item) == 5000
    assert limited.take("large", tenant="b") is Code.NO_ROOM
    limited.confirm(id_)
    assert limited.take("large", tenant="b")[1] == b"y" * 5000


def test_an_open_of_many_items_stops_at_the_limit(alone):
    """Its last item says that it is over; the rest stays."""
    alone.put("many", *[ITEM] * 4)
    first = alone.open("many", items=4)
    assert [alone.next(FrameKind.ITEM, first + number).flags for number in range(2)] == [0, 1]
    assert alone.take("many") is Code.NO_ROOM
    alone.confirm(first, first + 1)
    assert alone.drain("many") == [ITEM, ITEM]


def test_the_end_of_a_connection_frees_its_bytes(broker, other):
    """The limit is the worker's own: its items are back, and others are not concerned."""
    with contextlib.closing(broker.worker(open_bytes=1000)) as worker:
        worker.put("gone", ITEM, ITEM)
        worker.item("gone")
        worker.item("gone")
    assert other.take("gone", wait_ms=10_000)[1] == ITEM
