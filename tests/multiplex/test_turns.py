"""A large item takes many small turns of each event loop: what one turn handles is counted in bytes, not in time."""

from __future__ import annotations

import asyncio
import functools
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from gateway.broker.config import Config
from gateway.broker.queues.backlog import SUMMED_BYTES
from gateway.broker.queues.reads import ClientReads, ReadMode
from gateway.broker.storage import checksum
from gateway.broker.storage.large import data as large_data
from gateway.broker.storage.large.format import LARGE_BYTES, PART_BYTES
from gateway.common.multiplex.frames import FRAME_BYTES, FrameKind
from gateway.common.multiplex.outgoing import SOME_BYTES
from gateway.errors import BackendUnavailable
from tests.broker.steps import Steps
from tests.multiplex.client import Rig
from tests.multiplex.test_interleavings import World
from tests.multiplex.test_link import linked, until

MIB = 1 << 20


@pytest.fixture
def steps(tmp_path: Path):
    made = Steps(tmp_path)
    yield made
    made.close()


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was summed since the list was emptied."""
    sizes: list[int] = []

    def crc32(data: bytes, start: int = 0) -> int:
        sizes.append(len(data))
        return zlib.crc32(data, start)

    monkeypatch.setattr(checksum, "crc32", crc32)
    monkeypatch.setattr(large_data, "crc32", crc32)
    return sizes


@pytest.mark.parametrize("size", [SUMMED_BYTES, SUMMED_BYTES + 1, 4 * MIB])
def test_the_loop_sums_no_large_item(steps, summed, size):
    """The writer does, in parts if the item is stored in parts, and what it writes is read again after a start."""
    steps.queues.put(b"large", b"x" * size, 0)
    assert max(summed, default=0) <= SUMMED_BYTES
    steps.commit_all()
    assert max(summed) == (size if size <= LARGE_BYTES else PART_BYTES)
    steps.crash()
    queue = steps.queues.get(b"large")
    assert queue.read(ReadMode.OPEN, ClientReads(1)) is None  # it is being read
    steps.bring()
    found = queue.read(ReadMode.OPEN, ClientReads(1))
    assert found is not None
    assert found[0].data == b"x" * size


def test_the_loop_sums_no_large_item_that_expires_to_another_queue(tmp_path, summed):
    """The row that moves has a checksum of its own."""
    steps = Steps(tmp_path, Config(queues={b"from": {"max_age": 0.001, "expire_to_queue": "to"}}))
    steps.queues.put(b"from", b"x" * MIB, 0)
    steps.commit_all()
    summed.clear()
    ends_s = time.monotonic() + 60
    while not steps.queues.drop_expired():
        assert time.monotonic() < ends_s
    assert max(summed, default=0) <= SUMMED_BYTES
    steps.commit_all()
    steps.crash()
    queue = steps.queues.get(b"to")
    queue.head()
    steps.bring()
    assert [item.data for item in queue.backlog.ready] == [b"x" * MIB]
    steps.close()


def test_one_turn_handles_a_bounded_part_of_a_large_item(steps):
    """Both ends write about SOME_BYTES at once, and read at most FRAME_BYTES."""
    world = World(steps, 2)
    item, answers, written = b"x" * (8 * MIB), [], []

    def write(pipe, data):
        written.append(len(data))
        pipe.waiting.extend(data)

    for pipe in (world.out, world.back):
        pipe.write = functools.partial(write, pipe)
    world.channel.put_large(world.key, (0, item), lambda answer: answers.append(answer.kind), 0)
    world.settle_down()
    world.channel.open(world.key, 0, answers.append)
    world.settle_down()
    assert answers[0] == FrameKind.DONE
    assert answers[1].item == item
    assert sum(written) > 2 * len(item)
    assert max(written) <= SOME_BYTES + 2 * FRAME_BYTES
    assert len(world.channel.frames.get_buffer(-1)) <= FRAME_BYTES


def test_what_waits_for_a_frozen_broker_is_bounded(tmp_path):
    """Puts beyond the limit are refused, and were not sent; the others are stored when the broker goes on."""
    size, limit = 300_000, 2 * MIB

    async def main(broker: Rig) -> None:
        given: dict[str, Any] = {"max_buffer_bytes": limit, "max_job_bytes": 1000, "max_batch_bytes": 1000}
        async with linked(broker, kestrel_command_timeout_s=60, **given) as link:
            broker.freeze()
            outcomes: list[object] = []
            for _ in range(30):
                link.start_store([("q", b"x" * size, 0)], lambda _, errors: outcomes.extend(errors))
                assert link.channel.frames.unsent_bytes <= limit + 1000
            assert outcomes
            assert all(isinstance(each, BackendUnavailable) and "is behind" in each.detail for each in outcomes)
            refused = len(outcomes)
            broker.thaw()
            await until(lambda: len(outcomes) == 30)
            assert outcomes[refused:] == [None] * (30 - refused)
            assert broker.stat("queue_q_items") == 30 - refused

    with Rig(tmp_path / "data") as broker:
        asyncio.run(main(broker))
