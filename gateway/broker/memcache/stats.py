"""`stats` and `dump_stats` in Kestrel's format. Reads the queues and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from gateway.broker.broker import VERSION, Broker
from gateway.broker.queues.backlog import Backlog
from gateway.broker.queues.queue import PersistentQueue

AT_ONCE = 50
"""Queues in one part of an answer; a part is made without a pause."""


def stats(broker: Broker) -> Iterator[bytes]:
    """Every counter of the broker and of each queue, one `STAT` line each, in parts."""
    counters = broker.counters
    queues = list(broker.queues)
    lines: list[tuple[str, object]] = [
        ("uptime", int(time.monotonic() - broker.started_s)),
        ("time", int(time.time())),
        ("version", VERSION.decode()),
        ("curr_items", sum(queue.backlog.items for queue in queues)),
        ("total_items", counters.total_items),
        ("bytes", sum(queue.backlog.bytes for queue in queues)),
        ("reserved_memory_ratio", "0.000"),
        ("curr_connections", counters.curr_connections),
        ("total_connections", counters.total_connections),
        ("cmd_get", counters.cmd_get),
        ("cmd_set", counters.cmd_set),
        ("cmd_peek", counters.cmd_peek),
        ("get_hits", counters.get_hits),
        ("get_misses", counters.get_misses),
        ("bytes_read", counters.bytes_read),
        ("bytes_written", counters.bytes_written),
        ("queue_creates", broker.queues.creates),
        ("queue_deletes", broker.queues.deletes),
        ("queue_expires", counters.queue_expires),
    ]
    out = [b"STAT %s %s\r\n" % (key.encode(), str(value).encode()) for key, value in lines]
    for number, queue in enumerate(queues, 1):
        for key, value in queue_stats(queue, broker.queues.children(queue.name)):
            out.append(b"STAT queue_%s_%s %s\r\n" % (queue.name, key, value))
        if number % AT_ONCE == 0:
            yield b"".join(out)
            out.clear()
    yield b"".join([*out, b"END\r\n"])


def storage_stats(broker: Broker) -> bytes:
    """`stats storage`, which Kestrel does not have: the times of the commits, for the gateway's metrics."""
    times = broker.committer.times
    lines = {
        "commit_seconds": f"{times.sum_s:.6f}",
        "commit_bounds": ",".join(map(str, times.bounds_s)),
        "commit_counts": ",".join(map(str, times.counts)),
    }
    return "".join(f"STAT {name} {value}\r\n" for name, value in lines.items()).encode() + b"END\r\n"


def dump_stats(broker: Broker, names: Sequence[bytes]) -> Iterator[bytes]:
    """The counters grouped by queue, in parts; of all queues if no names are given; an empty group for an unknown
    queue.

    A name that is repeated is answered once, unlike Kestrel: a line of 60 KB would take a second of CPU. Without any
    queue, a blank line, like Kestrel 2.4.8.
    """
    out: list[bytes] = []
    names = list(dict.fromkeys(names)) or [queue.name for queue in broker.queues]
    for number, name in enumerate(names, 1):
        queue = broker.queues.find(name)
        found = [] if queue is None else queue_stats(queue, broker.queues.children(name))
        body = b"\r\n  ".join(b"%s=%s" % pair for pair in found)
        out.append(b"queue '%s' {\r\n  %s\r\n}\r\n" % (name, body))
        if number % AT_ONCE == 0:
            yield b"".join(out)
            out.clear()
    yield b"".join([*out, b"END\r\n"] if names else [b"\r\n", b"END\r\n"])


def queue_stats(queue: PersistentQueue, children: list[bytes]) -> list[tuple[bytes, bytes]]:
    """One queue's counters in Kestrel's order. `logsize` is the size of its rows, open reads included."""
    backlog, counters = queue.backlog, queue.counters
    counts = {
        b"items": backlog.items,
        b"bytes": backlog.bytes,
        b"total_items": counters.total_items,
        b"logsize": backlog.bytes + queue.open_reads.bytes,
        b"expired_items": counters.expired_items,
        b"mem_items": len(backlog.ready),
        b"mem_bytes": backlog.ready_bytes,
        b"age": _age_ms(backlog),
        b"discarded": counters.discarded,
        b"waiters": len(queue.waiters),
        b"open_transactions": len(queue.open_reads),
        b"transactions": counters.transactions,
        b"canceled_transactions": counters.canceled_transactions,
        b"total_flushes": counters.total_flushes,
        b"journal_rewrites": 0,
        b"journal_rotations": 0,
    }
    found = [(key, b"%d" % value) for key, value in counts.items()]
    if children:
        found.append((b"children", b",".join(children)))
    if children or queue.is_child:
        found.append((b"fanout", b"atomic"))  # unlike Kestrel: an item is stored with all of its copies or not at all
    return found


def _age_ms(backlog: Backlog) -> int:
    """How long ago the last read item was added, as Kestrel counts; before a first read the head's age; empty: 0."""
    if not backlog.bytes:
        return 0
    reference_ms = backlog.age_reference_ms or (backlog.ready[0].added_ms if backlog.ready else 0)
    return max(int(time.time() * 1000) - reference_ms, 0) if reference_ms else 0
