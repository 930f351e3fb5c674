"""What each command does to queues and session. One function per command; kestrel-2.4.8-transcript.txt has the
answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.broker.broker import VERSION, PutOutcome, TooManyReadsError, UnavailableError
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
from gateway.broker.memcache.long_commands import LongAnswer, RunningMonitor, WaitingGet
from gateway.broker.memcache.session import Session
from gateway.broker.queues.collection import IllegalNameError
from gateway.broker.queues.reads import ReadMode

_ILLEGAL_NAME = b"CLIENT_ERROR illegal queue name\r\n"


def execute(session: Session, command: Command) -> None:
    """Runs one command: its answer is sent, held, or sent later at the end of a long command."""
    try:
        _HANDLERS[type(command)](session, command)
    except IllegalNameError:
        # A client that reads no answer does not learn of a close, and would lose the items behind this one.
        if not (isinstance(command, PutCommand) and command.noreply):
            session.end(_ILLEGAL_NAME)
    except TooManyReadsError:
        session.end(ERROR)
    except (UnavailableError, OverflowError) as exc:
        session.fail(str(exc))


def _put(session: Session, put: PutCommand) -> None:
    outcome, ticket, item_id = session.broker.put(put.key, put.data, put.expiry)
    if outcome is PutOutcome.CONGESTED:
        session.hold(ticket, b"")
        session.wait_for_commit(put)
        return
    if ticket is not None and ticket not in session.unsettled_puts[-1:]:
        session.unsettled_puts.append(ticket)
    if put.noreply:
        answer = b""
    elif outcome is PutOutcome.ACCEPTED:
        answer = STORED
    else:
        answer = _refusal(session, too_large=outcome is PutOutcome.TOO_LARGE)
    session.hold(ticket, answer, item_id)


def _too_large(session: Session, command: TooLarge) -> None:
    session.broker.counters.cmd_set += 1
    session.answers.add(b"" if command.noreply else _refusal(session, too_large=True))


def _refusal(session: Session, *, too_large: bool) -> bytes:
    """The answer to a `set` that the queue does not accept. It tells the gateway if a retry is useless."""
    return TOO_LARGE if too_large and session.stream.is_local else NOT_STORED


def _get(session: Session, get: GetCommand) -> None:
    if get.abort:
        session.reads.abort_oldest(get.key)
        session.answers.add(END)
        return
    reading = get.open or not get.close
    if reading and session.unsettled_puts:
        session.wait_for_commit(get)
        return
    if get.close:
        session.hold(session.reads.confirm_oldest(get.key), b"" if reading else END)
    if reading:
        _read(session, get)


def _read(session: Session, get: GetCommand) -> None:
    mode = ReadMode.PEEK if get.peek else ReadMode.OPEN if get.open else ReadMode.TAKE
    if mode is ReadMode.TAKE and session.reads.count(get.key):
        session.end(ERROR)
        return
    queue, found = session.broker.read(get.key, mode, session.reads)
    if queue.is_child and queue.creation is not None and not queue.creation.done:
        session.hold(queue.creation, b"")
    if found is not None:
        item, _, ticket = found
        session.deliver(queue.name, item, ticket)
    elif get.wait_ms is not None and get.wait_ms > 0:
        WaitingGet(session, queue, mode, waits_for_items=True).start(get.wait_ms / 1000)
    elif queue.backlog.starved:
        WaitingGet(session, queue, mode, waits_for_items=False).start(None)
    else:
        session.miss()


def _monitor(session: Session, monitor: MonitorCommand) -> None:
    broker = session.broker
    if session.unsettled_puts:
        session.wait_for_commit(monitor)
        return
    broker.require_readable()
    limit = broker.options.max_open_reads if monitor.limit is None else monitor.limit
    queue = broker.queues.get(monitor.key)
    if limit == 0 or monitor.seconds <= 0:
        session.answers.add(END)
    else:
        left = limit if limit > 0 else broker.options.max_open_reads
        RunningMonitor(session, queue, left).start(monitor.seconds)


def _confirm(session: Session, confirm: ConfirmCommand) -> None:
    reads = session.reads
    if not 0 < confirm.reads <= reads.count(confirm.key):
        session.answers.add(ERROR)
        return
    ticket = None
    for _ in range(confirm.reads):
        ticket = reads.confirm_oldest(confirm.key) or ticket
    session.hold(ticket, END)


def _on_queue(session: Session, command: QueueCommand) -> None:
    broker = session.broker
    broker.require_writable()
    if session.unsettled_puts:
        session.wait_for_commit(command)
        return
    queues = broker.queues
    if command.verb == b"flush":
        session.hold(queues.flush(command.key), END)
    elif command.verb == b"delete":
        session.hold(queues.delete(command.key), b"" if command.noreply else DELETED)
    else:
        queue = queues.find(command.key)
        session.answers.add(b"%d\r\n" % (0 if queue is None else queue.drop_expired()))


def _dump_stats(session: Session, command: DumpStatsCommand) -> None:
    if session.unsettled_puts:
        session.wait_for_commit(command)
    else:
        parts = stats.dump_stats(session.broker, command.keys)
        if 0 < len(command.keys) <= stats.AT_ONCE:
            session.answers.add(b"".join(parts))
        else:
            LongAnswer(session, parts).start()


def _status(session: Session, command: StatusCommand) -> None:
    if command.value is None:
        session.answers.add(session.broker.status.name.encode() + b"\r\n")
        return
    ticket = session.broker.set_status(command.value.decode("latin-1"))
    if ticket is None:
        session.end(CLIENT_ERROR)
    else:
        session.hold(ticket, END)


def _plain(session: Session, command: PlainCommand) -> None:
    _PLAIN[command.verb](session, command)


def _version(session: Session, _: PlainCommand) -> None:
    session.answers.add(b"VERSION " + VERSION + b"\r\n")


def _stats(session: Session, command: PlainCommand) -> None:
    if session.unsettled_puts:
        session.wait_for_commit(command)
    else:
        LongAnswer(session, stats.stats(session.broker)).start()


def _storage_stats(session: Session, _: PlainCommand) -> None:
    session.answers.add(stats.storage_stats(session.broker))


def _flush_all(session: Session, command: PlainCommand) -> None:
    broker = session.broker
    broker.require_writable()
    if session.unsettled_puts:
        session.wait_for_commit(command)
        return
    for queue in broker.queues:
        session.hold(queue.flush(), b"")
    session.answers.add(b"" if command.noreply else b"Flushed all queues.\r\n")


def _flush_all_expired(session: Session, _: PlainCommand) -> None:
    session.answers.add(b"%d\r\n" % session.broker.queues.drop_expired())


def _reload(session: Session, _: PlainCommand) -> None:
    why = session.broker.reload()
    if why is None:
        session.answers.add(b"Reloaded config.\r\n")
    else:
        session.answers.add(b"SERVER_ERROR " + why.replace("\n", " ").encode() + b"\r\n")


def _shutdown(session: Session, _: PlainCommand) -> None:
    session.broker.on_shutdown()
    session.end(b"")


def _quit(session: Session, _: PlainCommand) -> None:
    session.end(b"")


def _refused(session: Session, command: Refused) -> None:
    if command.close:
        session.end(command.answer)
    else:
        session.answers.add(command.answer)


def _foreign(session: Session, command: Foreign) -> None:
    session.broker.client_log.foreign(command.protocol, session.stream.peer)
    session.end(command.answer)


_PLAIN: dict[bytes, Callable[[Session, PlainCommand], None]] = {
    b"version": _version,
    b"stats": _stats,
    b"stats storage": _storage_stats,
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
