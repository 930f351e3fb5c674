"""The checker over small ledgers made by hand: what it must notice, and what it must let pass."""

import dataclasses
import itertools

import pytest

from chaos.checker import Kind, check
from chaos.ledger import (
    NOT_SENT,
    DeliveryEvent,
    EventFile,
    Fault,
    Left,
    Odd,
    PauseEvent,
    PollAnswer,
    PollEvent,
    PutAnswer,
    PutEvent,
    SettleAnswer,
    SettleEvent,
    parse,
    read,
)


def put(at=0.0, status=201, number=0, *, delay=0.0):
    sent = PutEvent(t=at, who="producer-0", token="j", number=number, delay=delay)
    answer = PutAnswer(t=at + 0.01, token="j", number=number, status=status, job="id" if status == 201 else "")
    return [sent] if status is None else [sent, answer]


def lease(at, name, length=5.0, *, who="consumer-0", replica=0, attempt=1, opened_by=0.0):
    return [
        DeliveryEvent(
            t=at + 0.001, who=who, token="j", job="id", attempt=attempt, lease=name, replica=replica, opened=at,
            expires=at + length, queue="mail", opened_by=opened_by,
        )
    ]  # fmt: skip


def poll(at, status=None, number=0, queue="mail"):
    sent = PollEvent(t=at, who="consumer-1", life=1, number=number, queue=queue)
    told = PollAnswer(t=at + 0.1, who="consumer-1", life=1, number=number, status=status or 0)
    return [sent] if status is None else [sent, told]


def settle(at, name, verb="ack", status=204, *, number=0, code="", delay=0.0, expires=0.0, due=0.0):
    asked = SettleEvent(t=at, who="consumer-0", lease=name, number=number, verb=verb, replica=0, delay=delay)
    answer = SettleAnswer(
        t=at + 0.01, lease=name, number=number, status=status or 0, code=code, expires=expires, due=due
    )
    return [asked] if status is None else [asked, answer]


def fault(at, end, target="server-0", action="kill"):
    return [Fault(t=at, end=end, target=target, action=action)]


def pause(at, end, queue="mail"):
    return [PauseEvent(t=at, end=end, queue=queue)]


LEFT = [Left(t=99.0, token="j", queue="mail", server=0)]


def verdict(*parts):
    return check(sorted(itertools.chain(*parts), key=lambda event: event.t))


def kinds(*parts):
    """What the checker finds in a ledger made of these parts."""
    return [each.kind for each in verdict(*parts).violations]


FINE = {
    "delivered and acked": [put(), lease(1, "a"), settle(2, "a")],
    "enqueued after the first job of its batch was leased": [put(1), lease(0.9, "a", opened_by=1.3), settle(2, "a")],
    "given back before it came as a later job of a batch": [
        put(), lease(1, "a", opened_by=1.3), lease(1.1, "b"), settle(1.2, "b", "nack-head"), settle(2, "a"),
    ],
    "left on a queue": [put(), LEFT],
    "refused and gone": [put(status=503)],
    "unknown and gone": [put(status=502)],
    "unknown and delivered": [put(status=None), lease(1, "a"), settle(2, "a")],
    "acked by an unknown outcome": [put(), lease(1, "a"), settle(2, "a", status=502)],
    "acked by a request that was never answered": [put(), lease(1, "a"), settle(2, "a", status=None)],
    "given back and acked": [put(), lease(1, "a"), settle(2, "a", "nack-head"), lease(2.1, "b"), settle(3, "b")],
    "expired and acked": [put(), lease(1, "a", 2), lease(3.01, "b"), settle(4, "b")],
    "extended, expired then": [
        put(), lease(1, "a", 2), settle(2, "a", "extend", 200, expires=7.0), lease(7.1, "b"), settle(8, "b"),
    ],
    "server killed": [put(), lease(1, "a"), fault(2, 3), lease(3, "b"), settle(4, "b")],
    "its consumer killed": [put(), lease(1, "a"), fault(2, 3, "consumer-0"), lease(3, "b"), settle(4, "b")],
    "acked twice": [put(), lease(1, "a"), settle(2, "a"), settle(3, "a", number=1)],
    "enqueued twice, acked twice": [
        put(status=502), put(0.5, number=1), lease(1, "a"), settle(2, "a"), lease(3, "b"), settle(4, "b"),
    ],
    "an interrupted move": [
        put(), lease(1, "a"), settle(2, "a", "nack-tail", 502), lease(3, "b"), settle(4, "b"), lease(5, "c"),
        settle(6, "c"),
    ],
    "a move whose confirm a kill cut off, though its copy was told": [
        put(), lease(1, "a"), settle(2, "a", "nack-tail"), fault(2.005, 2.5), lease(3, "b"), settle(4, "b"),
        lease(5, "c"), settle(6, "c"),
    ],
    "a delayed move that a kill interrupted": [
        put(), lease(1, "a"), settle(2, "a", "nack-delay", delay=1.0), fault(3, 3), lease(4, "b"), settle(5, "b"),
        lease(6, "c"), settle(7, "c"),
    ],
    "an expired lease's move, interrupted": [
        put(), lease(1, "a", 2), lease(3.1, "b"), settle(4, "b"), lease(5, "c"), settle(6, "c"),
    ],
    "an expired lease that nobody saw, its move interrupted": [
        put(), poll(0.5), lease(3, "a"), settle(4, "a"), lease(5, "b", attempt=2), settle(6, "b"),
    ],
    "delayed": [put(delay=2.0), lease(2.001, "a"), settle(3, "a")],
    "an unknown enqueue without a delay before one with": [
        put(status=502), put(0.5, number=1, delay=9.0), lease(1, "a"), settle(2, "a"),
    ],
    "a delayed job whose move a kill interrupted": [
        put(delay=2.0), fault(1, 1), lease(2.1, "a"), settle(3, "a"), lease(4, "b"), settle(5, "b"),
    ],
    "a delayed job whose moves three kills interrupted, the last two while processes start again": [
        put(delay=2.0), fault(1, 1), fault(5, 5), fault(8, 8),
        *(each for at in (9, 11, 13, 15) for each in (lease(at, f"{at}"), settle(at + 1, f"{at}"))),
    ],
    "nacked with a delay": [
        put(), lease(1, "a"), settle(2, "a", "nack-delay", 200, delay=2.0, due=4.01), lease(4.02, "b", attempt=2),
        settle(5, "b"),
    ],
    "nacked with a delay that a kill interrupted before its confirm": [
        put(), lease(1, "a"), settle(2, "a", "nack-delay", 200, delay=2.0, due=4.01), fault(2.5, 3), lease(3, "b"),
        settle(3.5, "b"), lease(4.1, "c", attempt=2), settle(5, "c"),
    ],
    "before and after a pause, and while it begins": [
        put(), pause(1, 6), lease(2.9, "a"), settle(3, "a", "nack-head"), lease(6.01, "b"), settle(7, "b"),
    ],
    "another queue is paused": [put(), pause(1, 9, "thumbs"), lease(5, "a"), settle(6, "a")],
    "taken by a worker that was frozen while the server died": [
        put(), fault(0.9, 4.0, "worker-1.0", "freeze"), fault(1.5, 2.0), lease(2.5, "b"), settle(3, "b"),
        lease(4.01, "a", replica=1), settle(4.1, "a", status=410, code="lease-lost"),
    ],
}  # fmt: skip

BROKEN = {
    "never delivered": ([put()], Kind.LOST),
    "refused, then stored after all": ([put(status=503), lease(1, "a"), settle(2, "a")], Kind.REFUSED),
    "never sent, and delivered": ([put(status=NOT_SENT), lease(1, "a"), settle(2, "a")], Kind.REFUSED),
    "its ack never sent, and gone": ([put(), lease(1, "a"), settle(2, "a", status=NOT_SENT)], Kind.VANISHED),
    "a poll that was never sent left no lease unseen": (
        [put(), poll(0.5, NOT_SENT), lease(3, "a"), settle(4, "a"), lease(5, "b", attempt=2)], Kind.REPEATED,
    ),
    "given back and gone": ([put(), lease(1, "a"), settle(2, "a", "nack-head")], Kind.VANISHED),
    "rejected and gone": ([put(), lease(1, "a"), settle(2, "a", "reject")], Kind.VANISHED),
    "expired and gone": ([put(), lease(1, "a", 2)], Kind.VANISHED),
    "an ack known to have failed, and gone": (
        [put(), lease(1, "a"), settle(2, "a", status=410, code="lease-lost")], Kind.VANISHED,
    ),
    "acked, delivered again": ([put(), lease(1, "a"), settle(2, "a"), lease(3, "b"), settle(4, "b")], Kind.REPEATED),
    "acked, and on a queue": ([put(), lease(1, "a"), settle(2, "a"), LEFT], Kind.REPEATED),
    "acked, delivered again as the server was killed": (
        [put(), lease(1, "a"), settle(2, "a"), fault(2.1, 2.5), lease(3, "b"), settle(4, "b")], Kind.REPEATED,
    ),
    "one event, two further copies": (
        [put(status=502), put(0.5, number=1), lease(1, "a"), settle(2, "a"), lease(3, "b"), settle(4, "b"),
         lease(5, "c"), settle(6, "c")], Kind.REPEATED,
    ),
    "the event came after the copy": (
        [put(), lease(1, "a"), settle(2, "a"), lease(3, "b"), put(4, None, 1)], Kind.REPEATED,
    ),
    "a poll that was answered left no lease unseen": (
        [put(), poll(0.5, 204), lease(3, "a"), settle(4, "a"), lease(5, "b", attempt=2)], Kind.REPEATED,
    ),
    "what no move copied is no unseen lease's copy": (
        [put(), poll(0.5), lease(3, "a"), settle(4, "a"), lease(5, "b")], Kind.REPEATED,
    ),
    "another queue's unseen lease": (
        [put(), poll(0.5, queue="thumbs"), lease(3, "a"), settle(4, "a"), lease(5, "b", attempt=2)], Kind.REPEATED,
    ),
    "an unseen lease that came after": (
        [put(), lease(3, "a"), poll(3.5), settle(4, "a"), lease(5, "b", attempt=2)], Kind.REPEATED,
    ),
    "one unseen lease, two further copies": (
        [put(), poll(0.5), lease(3, "a"), settle(4, "a"), lease(5, "b", attempt=2), settle(6, "b"),
         lease(7, "c", attempt=2)], Kind.REPEATED,
    ),
    "a move that ended well": (
        [put(), lease(1, "a"), settle(2, "a", "nack-tail"), lease(3, "b"), settle(4, "b"), lease(5, "c")],
        Kind.REPEATED,
    ),
    "two leases at once": ([put(), lease(1, "a"), lease(2, "b"), settle(3, "b")], Kind.UNEXPLAINED),
    "a nack that was never sent explains nothing": (
        [put(), lease(1, "a"), settle(2, "a", "nack-head", NOT_SENT), lease(3, "b"), settle(4, "b")], Kind.UNEXPLAINED,
    ),
    "another consumer's death explains nothing": (
        [put(), lease(1, "a"), fault(1.5, 1.6, "consumer-7"), lease(2, "b"), settle(3, "b")], Kind.UNEXPLAINED,
    ),
    "a missed fault explains nothing": (
        [put(), lease(1, "a"), fault(1.5, 1.6, action="missed"), lease(2, "b"), settle(3, "b")], Kind.UNEXPLAINED,
    ),
    "extended, yet given to another": (
        [put(), lease(1, "a", 2), settle(2, "a", "extend", 200, expires=7.0), lease(4, "b"), settle(5, "b")],
        Kind.UNEXPLAINED,
    ),
    "own lease not found": ([put(), lease(1, "a"), settle(2, "a", status=404), LEFT], Kind.ODD),
    "a first ack that conflicts": ([put(), lease(1, "a"), settle(2, "a", status=409), LEFT], Kind.ODD),
    "an enqueue answered 500": ([put(status=500)], Kind.ODD),
    "delivered before it is due": ([put(delay=2.0), lease(1.9, "a"), settle(3, "a")], Kind.EARLY),
    "a second enqueue of the job has no longer delay": (
        [put(status=503), put(0.5, number=1, delay=2.0), lease(2.4, "a"), settle(3, "a")], Kind.EARLY,
    ),
    "its next attempt before the delay of the nack is over": (
        [put(), lease(1, "a"), settle(2, "a", "nack-delay", 200, delay=2.0, due=4.01), lease(3.9, "b", attempt=2),
         settle(5, "b")], Kind.EARLY,
    ),
    "more copies than kills": (
        [put(delay=2.0), fault(1, 1), lease(2.1, "a"), settle(3, "a"), lease(4, "b"), settle(5, "b"), lease(6, "c")],
        Kind.REPEATED,
    ),
    "a kill long after it was due": (
        [put(delay=2.0), fault(4, 4), lease(5, "a"), settle(6, "a"), lease(7, "b")], Kind.REPEATED,
    ),
    "delayed, delivered twice": (
        [put(delay=2.0), lease(2.1, "a"), settle(3, "a"), lease(4, "b"), settle(5, "b")], Kind.REPEATED,
    ),
    "delivered while paused": ([put(), pause(1, 6), lease(3.1, "a"), settle(4, "a")], Kind.PAUSED),
    "what a client found odd": ([[Odd(t=1.0, who="consumer-0", what="changed")]], Kind.ODD),
}  # fmt: skip


@pytest.mark.parametrize("parts", FINE.values(), ids=FINE)
def test_what_is_promised_passes(parts):
    """Histories that the promises allow bring no violation."""
    assert kinds(*parts) == []


@pytest.mark.parametrize(("parts", "kind"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_found(parts, kind):
    """Histories that break one promise bring that violation, and no other."""
    assert kinds(*parts) == [kind]


def test_each_duplicate_is_matched_to_its_event():
    """The verdict says which events explain the copies."""
    assert verdict(*FINE["enqueued twice, acked twice"]).repeated == {"unknown enqueue outcome": 1}
    assert verdict(*FINE["given back and acked"]).redelivered == {"after nack-head": 1}


def test_a_ledger_is_read_back_whole_but_for_half_a_line(tmp_path):
    """Every kind of event survives the file; what a killed process half wrote does not count."""
    events = [
        *put(),
        *poll(0.5, 200),
        *lease(1, "a"),
        *settle(2, "a"),
        *fault(3, 4),
        *pause(3.5, 4),
        Odd(t=5.0, who="x", what="y"),
        *LEFT,
    ]
    for number, event in enumerate(reversed(events)):
        file = EventFile(tmp_path / f"{number}.jsonl")
        file.write(event)
        file.close()
    with (tmp_path / "0.jsonl").open("a") as file:
        file.write('{"kind": "Odd", "t": 7')
    assert read(tmp_path) == sorted(events, key=lambda event: event.t)
    assert parse(['{"kind": "Left"']) == []
    assert all(dataclasses.is_dataclass(event) for event in events)
