"""What each command does to queues and session. One function per command; kestrel-2.4.8-transcript.txt has the
answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gateway.broker.broker import VERSION
from gateway.broker.memcache import stats
from gateway.broker.memcache.codec import (
    CLIENT_ERROR,
    DELETED,
    END,
    ERROR,
    NOT_STORED,
    STORED,
    TOO_LARGE,
    Command,
    ConfirmCommand,
    DumpStatsCommand,
    Foreign,
    GetCommand,
    MonitorCommand,
    PlainCommand,
    PutCommand,
    QueueCommand,
    Refused,
    StatusCommand,
    TooLarge,
)
from gateway.broker.memcache.session import Session
from gateway.broker.queues.collection import IllegalNameError
from gateway.broker.queues.reads import ReadMode
from gateway.broker.storage.batch import Ticket

_ABSOLUTE_FROM = 1_000_000
"""From this value on an expiry is seconds since the epoch. Source: kestrel-wire.md, Set."""
_ILLEGAL_NAME = b"CLIENT_ERROR illegal queue name\r\n"


def execute(session: Session, command: Command) -> None:
    """Runs one command: its answer is sent, held, or sent later at the end of a wait."""
    try:
        _HANDLERS[type(command)](session, command)
    except IllegalNameError:
        # A client that reads no answer does not learn of a close, and would lose the items behind this one.
        if not (isinstance(command, PutCommand) and command.noreply):
            session.end(_ILLEGAL_NAME)
    except OverflowError as exc:
        session.fail(str(exc))


def _put(session: Session, put: PutCommand) -> None:
    broker = session.broker
    broker.counters.cmd_set += 1
    why = broker.blocks_writes or broker.committer.refusal
    if why is not None:
        session.fail(why)
        return
    congested = broker.committer.congested
    if congested is not None:
        broker.counters.cmd_set -= 1
        session.bar_on(congested, put)
        return
    expires_ms = 0
    if put.expiry:
        base_s = time.time() if put.expiry < _ABSOLUTE_FROM else 0
        expires_ms = max(int((base_s + put.expiry) * 1000), 1)
    stored, ticket, item_id = broker.queues.put(put.key, put.data, expires_ms)
    if stored:
        broker.counters.total_items += 1
    answer = STORED if stored else _refusal(session, too_large=broker.queues.never_takes(put.key, len(put.data)))
    session.hold_put(ticket, b"" if put.noreply else answer, item_id)


def _too_large(session: Session, command: TooLarge) -> None:
    session.broker.counters.cmd_set += 1
    session.answer(b"" if command.noreply else _refusal(session, too_large=True))


def _refusal(session: Session, *, too_large: bool) -> bytes:
    """The answer to a `set` that the queue does not accept. It tells the gateway if a retry is useless."""
    return TOO_LARGE if too_large and session.is_local else NOT_STORED


def _get(session: Session, get: GetCommand) -> None:
    key = get.key
    if get.abort:
        reads = session.reads.get(key)
        if reads:
            read = reads.popleft()
            read.queue.give_back(read)
        session.answer(END)
        return
    reading = get.open or not get.close
    if reading and session.has_uncommitted_puts:
        session.bar(get)
        return
    if get.close:
        session.hold(_settle(session, key), b"" if reading else END)
    if reading:
        _read(session, get)


def _settle(session: Session, key: bytes) -> Ticket | None:
    """Confirms the oldest open read of the key, if there is one."""
    reads = session.reads.get(key)
    if not reads:
        return None
    read = reads.popleft()
    return read.queue.confirm(read)


def _read(session: Session, get: GetCommand) -> None:
    broker = session.broker
    opened = len(session.reads.get(get.key, ()))
    if opened and not get.peek and not get.open:
        session.end(ERROR)
        return
    if broker.blocks_reads:
        session.fail("quiescent")
        return
    if get.open and opened >= broker.options.max_open_reads:
        session.end(ERROR)
        return
    if get.peek:
        broker.counters.cmd_peek += 1
    else:
        broker.counters.cmd_get += 1
    queue = broker.queues.get(get.key)
    if queue.creation is not None and not queue.creation.done and queue.is_child:
        session.hold(queue.creation, b"")
    mode = ReadMode.PEEK if get.peek else ReadMode.OPEN if get.open else ReadMode.TAKE
    found = queue.read(mode)
    if found is not None:
        session.deliver(queue, *found)
    elif get.wait_ms is not None and get.wait_ms > 0:
        session.wait(queue, mode, get.wait_ms / 1000)
    elif queue.backlog.starved:
        session.wait(queue, mode, None)
    else:
        session.miss()


def _monitor(session: Session, monitor: MonitorCommand) -> None:
    broker = session.broker
    if session.has_uncommitted_puts:
        session.bar(monitor)
        return
    if broker.blocks_reads:
        session.fail("quiescent")
        return
    limit = broker.options.max_open_reads if monitor.limit is None else monitor.limit
    queue = broker.queues.get(monitor.key)
    if limit == 0 or monitor.seconds <= 0:
        session.answer(END)
    else:
        session.monitor(queue, limit if limit > 0 else broker.options.max_open_reads, monitor.seconds)


def _confirm(session: Session, confirm: ConfirmCommand) -> None:
    reads = session.reads.get(confirm.key, ())
    if not 0 < confirm.reads <= len(reads):
        session.answer(ERROR)
        return
    ticket = None
    for _ in range(confirm.reads):
        ticket = _settle(session, confirm.key) or ticket
    session.hold(ticket, END)


def _on_queue(session: Session, command: QueueCommand) -> None:
    broker = session.broker
    why = broker.blocks_writes
    if why is not None:
        session.fail(why)
        return
    if session.has_uncommitted_puts:
        session.bar(command)
        return
    queues = broker.queues
    if command.verb == b"flush":
        session.hold(queues.flush(command.key), END)
    elif command.verb == b"delete":
        session.hold(queues.delete(command.key), b"" if command.noreply else DELETED)
    else:
        queue = queues.find(command.key)
        session.answer(b"%d\r\n" % (0 if queue is None else queue.drop_expired()))


def _dump_stats(session: Session, command: DumpStatsCommand) -> None:
    if session.has_uncommitted_puts:
        session.bar(command)
    else:
        parts = stats.dump_stats(session.broker, command.keys)
        if 0 < len(command.keys) <= stats.AT_ONCE:
            session.answer(b"".join(parts))
        else:
            session.stream(parts)


def _status(session: Session, command: StatusCommand) -> None:
    if command.value is None:
        session.answer(session.broker.status.name.encode() + b"\r\n")
        return
    ticket = session.broker.set_status(command.value.decode("latin-1"))
    if ticket is None:
        session.end(CLIENT_ERROR)
    else:
        session.hold(ticket, END)


def _plain(session: Session, command: PlainCommand) -> None:
    _PLAIN[command.verb](session, command)


def _version(session: Session, _: PlainCommand) -> None:
    session.answer(b"VERSION " + VERSION + b"\r\n")


def _stats(session: Session, command: PlainCommand) -> None:
    if session.has_uncommitted_puts:
        session.bar(command)
    else:
        session.stream(stats.stats(session.broker))


def _flush_all(session: Session, command: PlainCommand) -> None:
    broker = session.broker
    why = broker.blocks_writes
    if why is not None:
        session.fail(why)
        return
    if session.has_uncommitted_puts:
        session.bar(command)
        return
    for queue in broker.queues:
        session.hold(queue.flush(), b"")
    session.answer(b"" if command.noreply else b"Flushed all queues.\r\n")


def _flush_all_expired(session: Session, _: PlainCommand) -> None:
    session.answer(b"%d\r\n" % session.broker.queues.drop_expired())


def _reload(session: Session, _: PlainCommand) -> None:
    why = session.broker.reload()
    if why is None:
        session.answer(b"Reloaded config.\r\n")
    else:
        session.answer(b"SERVER_ERROR " + why.replace("\n", " ").encode() + b"\r\n")


def _shutdown(session: Session, _: PlainCommand) -> None:
    session.broker.on_shutdown()
    session.end(b"")


def _quit(session: Session, _: PlainCommand) -> None:
    session.end(b"")


def _refused(session: Session, command: Refused) -> None:
    if command.close:
        session.end(command.answer)
    else:
        session.answer(command.answer)


def _foreign(session: Session, command: Foreign) -> None:
    session.broker.tell_foreign(command.protocol, session.peer)
    session.end(command.answer)


_PLAIN: dict[bytes, Callable[[Session, PlainCommand], None]] = {
    b"version": _version,
    b"stats": _stats,
    b"flush_all": _flush_all,
    b"flush_all_expired": _flush_all_expired,
    b"reload": _reload,
    b"shutdown": _shutdown,
    b"quit": _quit,
}
_HANDLERS: dict[type, Callable[[Session, Any], None]] = {
    PutCommand: _put,
    GetCommand: _get,
    MonitorCommand: _monitor,
    ConfirmCommand: _confirm,
    QueueCommand: _on_queue,
    DumpStatsCommand: _dump_stats,
    StatusCommand: _status,
    PlainCommand: _plain,
    TooLarge: _too_large,
    Refused: _refused,
    Foreign: _foreign,
}
