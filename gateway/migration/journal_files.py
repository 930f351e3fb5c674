"""The files of a directory of journals: which belong to a queue, and in which order they are replayed.

1. `NAME` is the current file of a queue, `NAME.MILLISECONDS` one that was rotated, older than the current one.
2. `NAME.MILLISECONDS.pack` replaces every rotated file with the same or an earlier time. The latest one counts.
3. `NAME~~...` is temporary and left out, as are directories.

Source: docs/journal_format.md, "Multiple journal files", and Journal.archivedFilesForQueue of Kestrel 2.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILE: Final = re.compile(r"(?P<queue>[^.~]+)(?:\.(?P<time>[0-9]{1,19})(?P<pack>\.pack)?)?")


class JournalsError(Exception):
    """The directory cannot be read, or is not one of journals. The message is for people."""


@dataclass(frozen=True, slots=True)
class JournalFile:
    """size: when the directory was read; a server that runs writes more."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class JournalDirectory:
    """queues: the files of each, in the order of replay. replaced: files that a pack replaces. other: not journals."""

    path: Path
    queues: Mapping[str, tuple[JournalFile, ...]]
    replaced: tuple[str, ...]
    other: tuple[str, ...]


def read_directory(path: Path) -> JournalDirectory:
    """The journals in a directory. Raises JournalsError."""
    rotated: dict[str, list[tuple[int, bool, JournalFile]]] = {}
    current: dict[str, JournalFile] = {}
    other = []
    try:
        for each in sorted(path.iterdir()):
            if each.is_dir() or "~~" in each.name:
                continue
            found = _FILE.fullmatch(each.name)
            if found is None:
                other.append(each.name)
                continue
            file = JournalFile(each, each.stat().st_size)
            if found["time"] is None:
                current[found["queue"]] = file
            else:
                rotated.setdefault(found["queue"], []).append((int(found["time"]), bool(found["pack"]), file))
    except OSError as exc:
        raise JournalsError(f"{path} cannot be read: {exc.strerror}") from exc
    queues, replaced = {}, []
    for queue in sorted({*rotated, *current}):
        files = sorted(rotated.get(queue, []), key=lambda each: each[:2])
        packed = max((time for time, pack, _ in files if pack), default=-1)
        kept = [file for time, pack, file in files if time > packed or (pack and time == packed)]
        replaced += [file.path.name for _, _, file in files if file not in kept]
        queues[queue] = (*kept, *([current[queue]] if queue in current else []))
    return JournalDirectory(path, queues, tuple(replaced), tuple(other))
