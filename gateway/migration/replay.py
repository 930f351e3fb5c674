"""What is on a queue after its journals are replayed. Keeps where each item is in the files, not its bytes.

1. Operations apply to one queue across all of its files, as if they were one file.
2. An operation on what is not there changes nothing: a remove from an empty queue, an unknown transaction.
3. Transactions that are open at the end are given back: their items are at the head, in the order of their numbers.
4. A file that cannot be read to its end is reported. What follows in it is not known; the next file is read.

Source: PersistentQueue.replayJournal of Kestrel 2.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.common.counted import counted
from gateway.migration.journal import JournalDamage, JournalOperation, Opcode, operations
from gateway.migration.journal_files import JournalFile


@dataclass(frozen=True, slots=True)
class JournalItem:
    """Where an item is. file: the number of the file. expires_ms: wall time; 0: never."""

    file: int
    at: int
    size: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Unread:
    """The end of a file that could not be read. tail: a torn operation at the end of the queue's last file.

    That is what a server leaves that was killed while it wrote: it never answered for that operation.
    """

    file: str
    position: int
    lost_bytes: int
    what: str
    tail: bool

    def __str__(self) -> str:
        lost = counted(self.lost_bytes, "byte is", "bytes are")
        return f"{self.file}: {self.what}, at byte {self.position}; the last {lost} left out"


@dataclass(frozen=True, slots=True)
class ReplayedQueue:
    """items: from the head on. given_back: how many of them, at the head, were in open transactions."""

    files: Sequence[JournalFile]
    items: Sequence[JournalItem]
    given_back: int
    unread: Sequence[Unread]


class _State:
    """A queue while it is replayed."""

    def __init__(self) -> None:
        self.items: deque[JournalItem] = deque()
        self.open: dict[int, JournalItem] = {}
        self._last_xid = 0

    def apply(self, operation: JournalOperation, file: int) -> None:
        xid = operation.xid
        match operation.opcode:
            case Opcode.ADD | Opcode.ADDX | Opcode.ADD_XID:
                self._add(operation, file)
            case Opcode.REMOVE:
                if self.items:
                    self.items.popleft()
            case Opcode.REMOVE_TENTATIVE:
                self._last_xid = self._next_xid()
                self._open(self._last_xid)
            case Opcode.REMOVE_TENTATIVE_XID:
                self._last_xid = xid
                self._open(xid)
            case Opcode.SAVE_XID:
                self._last_xid = xid
            case Opcode.UNREMOVE:
                if xid in self.open:
                    self.items.appendleft(self.open.pop(xid))
            case Opcode.CONFIRM_REMOVE:
                self.open.pop(xid, None)
            case Opcode.CONTINUE:
                self.open.pop(xid, None)
                self._add(operation, file)

    def _add(self, operation: JournalOperation, file: int) -> None:
        self.items.append(JournalItem(file, operation.data_at, operation.data_bytes, operation.expires_ms))

    def _open(self, xid: int) -> None:
        if self.items:
            self.open[xid] = self.items.popleft()

    def _next_xid(self) -> int:
        """Transactions are numbered in order. A number in use is left out, as is 0."""
        xid = self._last_xid + 1
        while xid in self.open or xid == 0:
            xid += 1
        return xid


def replay(files: Sequence[JournalFile], reached: Callable[[int], None] = lambda _: None) -> ReplayedQueue:
    """Replays the files of one queue. reached: gets the bytes that were read so far. Raises OSError."""
    state = _State()
    unread = []
    before = 0
    for number, each in enumerate(files):
        try:
            with each.path.open("rb") as file:
                for count, operation in enumerate(operations(file, each.size)):
                    state.apply(operation, number)
                    if not count % 4096:
                        reached(before + file.tell())
        except JournalDamage as damage:
            is_last = number == len(files) - 1
            unread.append(
                Unread(
                    each.path.name,
                    damage.position,
                    each.size - damage.position,
                    str(damage),
                    tail=damage.torn and is_last,
                )
            )
        before += each.size
        reached(before)
    given_back = [item for _, item in sorted(state.open.items())]
    return ReplayedQueue(files, [*given_back, *state.items], len(given_back), unread)
