"""Every recorded exchange of Kestrel 2.4.8, replayed on running brokers: to the byte, but for the differences below."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.broker import transcript
from tests.broker.transcript import Replay, Section, Step
from tests.lab.broker import BrokerProcess

# Which broker a section was recorded on. What is not named ran on the first one, in order.
LIMITED = """
[queues.small]
max_items = 2
[queues.tiny]
max_item_bytes = 8
[queues.ring]
max_items = 2
discard_old_when_full = true
[queues.bytes]
max_bytes = 10
[queues.aged]
max_age = 0.3
[queues.jobs]
max_age = 0.3
expire_to_queue = "done"
[queues.fan]
fanout_only = true
[queues.txto]
open_transaction_timeout = 0.5
"""
SERVERS: dict[str, tuple[tuple[str, ...], str]] = {
    "main": ((), ""),
    "one open read": (("--max-open-reads", "1"), ""),
    "limits": ((), LIMITED),
    "client timeout": ((), "client_timeout = 1.0"),
    "one queue": ((), ""),
    "shutdown": ((), ""),
}
SECTIONS = {
    "13": "one open read", "13b": "one open read", "13c": "one open read",
    "16": "limits", "16b": "limits", "16c": "limits", "16d": "limits", "16e": "limits", "20d": "limits",
    "20": "one queue", "20b": "client timeout", "19": "shutdown",
}  # fmt: skip

# Sections that are not replayed, and why.
SKIPPED = {
    "0": "no exchange",
    "6f": "a client that vanishes during its monitor is noticed at once here (test_sessions.py)",
    "6f2": "the same, with open items",
    "17c": "a race of 100 tries, no exchange (test_sessions.py has it)",
    "18b": "cuts Kestrel's own journal file",
    "20f": "a speed",
    "21": "no exchange; kill -9 is in test_durability.py",
}

# Counters that depend on how it is built or on who else is connected.
BOUND_STATS = {
    "uptime", "time", "version", "reserved_memory_ratio", "curr_connections", "total_connections", "cmd_get",
    "bytes_read", "bytes_written", "logsize", "age", "queue_creates", "journal_rotations",
}  # fmt: skip

# Where Kestrel closes without a word and we say why before we close.
DROPPED = {"6h", "11", "12", "12b", "11b"}

# Where the wrong length of a set's data is an error here, not a shift of the commands behind it (and a length of -1
# is a bad number at once, not a wait for one byte).
TRAILER = {
    b"set  x 0 0 1\r\nz\r\n",
    b"set bd 0 0 3\r\nabcXYget bd\r\n",
    b"set bd 0 0 3\r\nabcdef\r\n",
    b"set x 0 0 -1\r\n",
}

# Kestrel answers what says `noreply` all the same; here it gets no answer.
NO_REPLY = {("11", "[c34] << STORED\\r\\n"), ("11", "[c42] << DELETED\\r\\n")}

# What the clock has to reach before a step, in seconds: (section, what is sent).
PAUSES = {
    ("8", b"get fe\r\n"): 1.05,
    ("9", b"get ex\r\n"): 1.05,
    ("16e", b"get aged\r\n"): 0.35,
    ("18", b"get je\r\n"): 1.05,
}
CONNECTION_PAUSES = {("16e", "c107"): 0.55, ("20d", "o2"): 0.55}

GONE = re.compile(rb"CLIENT_ERROR [ -~]+\r\n\Z")


def _edit(section: str, line: str) -> str | None:
    """Lines that stand for more than they show, made real; `VERSION 2.4.8` has digits and dots only."""
    line = line.replace("VERSION 2.4.8-SNAPSHOT", "VERSION 2.4.8")
    if (section, line) in NO_REPLY:
        return None
    if section == "9":
        line = re.sub(r"179541889\d", str(int(time.time()) + 60), line)
        line = re.sub(r"179541888\d", str(int(time.time()) - 60), line)
    if section == "14b" and line.startswith("[c100] << STORED"):
        sets = "".join(f"set q3 0 0 3\\r\\n{number:03}\\r\\n" for number in range(line.count("STORED")))
        return f"[c100] >> {sets}\n{line}"
    if section == "14b" and line.startswith("[c100] >> 100 x"):
        return "[c100] >> " + "get q3/open\\r\\n" * 100
    if section == "14b" and line.startswith("[c100] << VALUE"):
        return "[c100] << " + "".join(f"VALUE q3 0 3\\r\\n{number:03}\\r\\nEND\\r\\n" for number in range(100))
    if section == "16b" and "100000" in line:
        return "[c106] >> set tiny 0 0 100000\\r\\n" + "x" * 100000 + "\\r\\n"
    if section == "20e":
        return _big_item(line)
    if section == "19" and ("new connect" in line or "exit code" in line or "--- sent" in line):
        return None  # new clients are refused at once here, and the end comes after one second, not thirty
    return None if line.startswith("    ") and not line.startswith("    stats") else line


def _names() -> list[str]:
    """Of the sections that have exchanges. The large item is not made for that."""
    return [each.name for each in transcript.sections(lambda name, line: line if name == "20e" else _edit(name, line))]


def _big_item(line: str) -> str | None:
    size = 20971520
    if line.startswith("[big] >>"):
        return f"[big] >> set big 0 0 {size}\\r\\n{'B' * size}\\r\\n"
    if line.startswith("[c124]"):
        answer = f"VALUE big 0 {size}\\r\\n{'B' * size}\\r\\nEND\\r\\n"
        return f"[big] << STORED\\r\\n\n[big] >> get big\\r\\n\n[big] << {answer}"
    return None  # a line of 1 MB is refused here, not collected (test_sessions.py)


def _differs(section: str, sent: bytes, step: Step, got: bytes) -> bool:
    """Whether another answer than the recorded one is allowed."""
    if step.data.startswith(b"STAT "):
        return _stats_alike(step.data, got)
    if step.data.startswith(b"queue '"):
        return _dumps_alike(step.data, got)
    if sent in TRAILER:
        return bool(GONE.match(got))
    if section == "11b" and sent == b"get bd\r\n":
        return not got  # that connection is closed already
    if section in DROPPED and step.closed and not step.data:
        return bool(GONE.match(got))
    return False


def _stats_alike(recorded: bytes, got: bytes) -> bool:
    """The same keys in the same order; the same values but for the bound ones, where the recording is whole."""
    cut = b"[cut]" in recorded
    want = [line.split(b" ", 2) for line in recorded.split(b" ...[cut]")[0].split(b"\r\n") if line.count(b" ") == 2]
    have = [line.split(b" ", 2) for line in got.split(b"\r\n") if line.startswith(b"STAT ")]
    if cut:
        want, have = want[:19], have[:19]
        return [key for _, key, _ in want] == [key for _, key, _ in have]
    return [(key, _unbound(key, value)) for _, key, value in want] == [
        (key, _unbound(key, value)) for _, key, value in have
    ]


def _unbound(key: bytes, value: bytes) -> bytes:
    bound = key.decode() in BOUND_STATS or key.decode().removeprefix("queue_solo_") in BOUND_STATS
    return b"" if bound else value


def _dumps_alike(recorded: bytes, got: bytes) -> bool:
    """The same groups, lines and values, but for the bound ones; where the recording is cut, only its form."""
    bound = re.compile(rb"(%s)=\d+" % "|".join(BOUND_STATS).encode())
    if b"[cut]" in recorded:
        group = rb"queue '[^']+' \{\r\n(  \w+=[\w+,]+\r\n)+\}\r\n"
        return re.fullmatch(rb"(%s)+END\r\n" % group, got) is not None
    return bound.sub(rb"\1", recorded) == bound.sub(rb"\1", got)


def _stat_differs(key: str) -> bool:
    return key in BOUND_STATS


def _pause_before(section: str, step: Step) -> float:
    if step.kind != ">>":
        return 0
    key = (section, step.data)
    if key in PAUSES:
        return PAUSES.pop(key) if section != "9" else PAUSES[key]
    return CONNECTION_PAUSES.pop((section, step.connection), 0)


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """The mismatches by section, of all brokers, which play at the same time."""
    parts: dict[str, list[Section]] = {name: [] for name in SERVERS}
    for section in transcript.sections(_edit):
        if section.name not in SKIPPED:
            parts[SECTIONS.get(section.name, "main")].append(section)
    directories = {name: tmp_path_factory.mktemp("replay") for name in parts}
    with ThreadPoolExecutor(len(parts)) as pool:
        found = pool.map(lambda name: _replay(name, parts[name], directories[name]), parts)
        yield {section: lines for part in found for section, lines in part.items()}


def _replay(name: str, part: list[Section], directory: Path) -> dict[str, list[str]]:
    flags, config = SERVERS[name]
    replay = Replay(
        lambda: BrokerProcess(directory / "data", "--fsync", "off", *flags, config=config),
        _differs, _stat_differs, _pause_before, TRAILER,
    )  # fmt: skip
    try:
        for section in part:
            replay.play(section)
    finally:
        replay.close()
    assert replay.compared
    return replay.mismatches


@pytest.mark.parametrize("name", [name for name in _names() if name not in SKIPPED])
def test_each_exchange_has_the_recorded_answer(name: str, replays: dict[str, list[str]]) -> None:
    """Each exchange of the section has the recorded answer."""
    assert not replays[name], "\n".join(replays[name])


def test_nothing_is_skipped_silently() -> None:
    """Every section of the recording is replayed or stands in the table of skipped ones."""
    names = {line.split()[1] for line in transcript.FILE.read_text("latin-1").splitlines() if line.startswith("### ")}
    replayed = set(_names()) - SKIPPED.keys()
    assert names | {"0"} == replayed | SKIPPED.keys()
