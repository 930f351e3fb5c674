"""What the commands print: what journals hold, what was imported, what was moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.client import options, tables
from gateway.client.progress import ProgressBar
from gateway.common.counted import counted
from gateway.migration.importing import ImportedQueue, live
from gateway.migration.journal_files import JournalDirectory
from gateway.migration.moving import MoveCounts
from gateway.migration.queue_names import NewNames, is_kestrel_name, unreadable
from gateway.migration.replay import replay

_HELD: Final = ("queue", "name", "jobs", "bytes", "given_back", "expired", "files")
_HELD_HEADINGS: Final = ("QUEUE", "NEW NAME", "JOBS", "BYTES", "GIVEN BACK", "EXPIRED", "FILES")
_IMPORTED: Final = ("queue", "name", "stored", "expired", "before")
_IMPORTED_HEADINGS: Final = ("QUEUE", "NEW NAME", "STORED", "EXPIRED", "STORED BEFORE")


@dataclass(slots=True)
class JournalSummary:
    """queues: the figures of each. notices: for people. damaged: whether more than a torn tail is left out.

    items: of all queues, with those that have expired.
    """

    queues: list[dict[str, Any]]
    notices: list[str]
    damaged: bool = False
    items: int = 0

    def show(self, *, as_json: bool) -> None:
        """Prints what the journals hold."""
        _show(_HELD, _HELD_HEADINGS, self.queues, as_json=as_json)

    def show_imported(self, imported: Mapping[str, ImportedQueue], *, as_json: bool) -> None:
        """Prints what became of each queue."""
        rows = [
            {
                "queue": each["queue"],
                "name": each["name"],
                "stored": imported[each["queue"]].stored,
                "expired": imported[each["queue"]].expired,
                "before": imported[each["queue"]].before,
            }
            for each in self.queues
        ]
        _show(_IMPORTED, _IMPORTED_HEADINGS, rows, as_json=as_json)


def examine(journals: JournalDirectory, names: NewNames) -> JournalSummary:
    """Reads the journals of the chosen queues once. Raises OSError."""
    found = JournalSummary([], [])
    if journals.other:
        found.notices.append(f"left out, since these are not journals: {', '.join(journals.other)}")
    if journals.replaced:
        found.notices.append(f"left out, since a pack replaces these files: {', '.join(journals.replaced)}")
    chosen = names.chosen(journals.queues)
    sizes = {queue: sum(each.size for each in journals.queues[queue]) for queue in chosen}
    before = 0
    with ProgressBar("reading", sum(sizes.values()), in_bytes=True) as bar:
        for queue in chosen:
            begin = before
            replayed = replay(journals.queues[queue], lambda count, begin=begin: bar.reached(begin + count))  # type: ignore[misc]
            before += sizes[queue]
            new = names.new(queue)
            waiting = live(replayed.items)
            found.items += len(replayed.items)
            found.queues.append(
                {
                    "queue": queue,
                    "name": new,
                    "jobs": len(waiting),
                    "bytes": sum(each.size for each in waiting),
                    "given_back": replayed.given_back,
                    "expired": len(replayed.items) - len(waiting),
                    "files": len(replayed.files),
                }
            )
            if not is_kestrel_name(new):
                found.notices.append(f"{queue}: {new!r} is not a name of a queue; give another one with --rename")
                found.damaged = True
            elif replayed.items and (why := unreadable(new, names.prefix)):
                found.notices.append(why)
            for each in replayed.unread:
                found.notices.append(f"{'torn' if each.tail else 'damaged'}: {each}")
                found.damaged = found.damaged or not each.tail
    return found


def show_moved(counts: MoveCounts, *, as_json: bool) -> None:
    """Prints how many jobs of each queue were moved."""
    rows = [{"queue": queue, "moved": count} for queue, count in sorted(counts.moved.items())]
    if rows:
        _show(("queue", "moved"), ("QUEUE", "MOVED"), rows, as_json=as_json)
    else:
        options.notice("no job is moved")
    for queue, why in sorted(counts.left_out.items()):
        options.notice(f"{queue} is not moved: {why}")
    if counts.expired:
        options.notice(counted(counts.expired, "job had expired and is left out", "jobs had expired and are left out"))


def _show(names: tuple[str, ...], headings: tuple[str, ...], rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            options.show_json(row)
    else:
        tables.show(headings, [[row[name] for name in names] for row in rows])
