"""The answers of one connection: in order, none before its commit, NOT_STORED for an item that the disk refused."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.memcache.answers import HELD_ANSWERS, Answers
from gateway.broker.memcache.codec import NOT_STORED, STORED
from gateway.broker.storage.batch import Ticket


class Connection:
    """What a ticket releases."""

    def __init__(self):
        self.released = 0

    def release(self):
        self.released += 1


@given(
    steps=st.lists(st.one_of(st.none(), st.integers(0, 4), st.just("take")), max_size=40),
    settled=st.permutations(range(5)),
    between=st.lists(st.integers(0, 40), min_size=5, max_size=5),
)
def test_answers_leave_in_order_and_none_before_its_commit(steps, settled, between):
    """Any mix of answers with and without commits, which are settled in any order at any time."""
    answers, tickets, connection = Answers(), [Ticket() for _ in range(5)], Connection()
    wanted: list[tuple[Ticket | None, bytes]] = []
    written = b""
    waiting = sorted(zip(between, settled, strict=True))
    for place in range(41):
        while waiting and waiting[0][0] <= place:
            tickets[waiting.pop(0)[1]].settle(None)
            assert answers.release() is None
        step = steps[place] if place < len(steps) else "take"
        data = b"%d\r\n" % place
        if step == "take":
            written += answers.take()
        elif step is None or tickets[step].done:
            wanted.append((None, data))
            answers.add(data)
        else:
            wanted.append((tickets[step], data))
            answers.hold(tickets[step], data, connection)
        first = next((n for n, (ticket, _) in enumerate(wanted) if ticket and not ticket.done), len(wanted))
        assert len(answers) == len(wanted) - first
    written += answers.take()
    assert written == b"".join(data for _, data in wanted)
    assert answers.ready_bytes == 0
    assert answers.take() == b""


def test_the_item_that_the_disk_refused_is_not_stored():
    """Of one commit only that one; also where the commit was over before."""
    answers, ticket, connection = Answers(), Ticket(), Connection()
    for item_id in (1, 2, 3):
        answers.hold(ticket, STORED, connection, item_id)
    assert list(ticket.holders) == [connection]
    ticket.settle(None, {2})
    assert answers.release() is None
    answers.add_settled(ticket, STORED, 2)
    answers.add_settled(ticket, b"", 2)
    assert answers.take() == STORED + NOT_STORED + STORED + NOT_STORED


def test_nothing_is_answered_behind_a_commit_that_failed():
    """What was ready before it is; the reason is returned."""
    answers, ticket = Answers(), Ticket()
    answers.add(b"before")
    answers.hold(ticket, STORED, Connection())
    answers.add(b"behind")
    assert answers.take() == b"before"
    ticket.settle("the disk is full")
    assert answers.release() == "the disk is full"
    assert (len(answers), answers.take()) == (0, b"")


def test_it_says_when_it_is_full():
    """By their number and by their bytes."""
    many, large, ticket = Answers(), Answers(), Ticket()
    for _ in range(HELD_ANSWERS):
        many.hold(ticket, b"", Connection())
    large.hold(ticket, b"x" * (1 << 20), Connection())
    assert (many.full, large.full) == (False, False)
    many.add(b"")
    large.add(b"x")
    assert (many.full, large.full) == (True, True)
