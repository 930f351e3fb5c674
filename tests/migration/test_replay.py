"""Journals written byte by byte, whole and damaged, hold what a plain model says."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.migration.journal_files import JournalFile, JournalsError, read_directory
from gateway.migration.replay import ReplayedQueue, replay
from tests.lab.examples import examples
from tests.migration.journals import Op, adds, encoded, model, write

XIDS = st.integers(-2, 6)
ITEMS = st.binary(max_size=12)
OPS = st.lists(
    st.one_of(
        st.builds(Op, st.sampled_from(["addx", "add", "add-xid", "continue"]), XIDS, ITEMS),
        st.builds(Op, st.sampled_from(["remove", "remove-tentative"])),
        st.builds(Op, st.sampled_from(["save-xid", "unremove", "confirm-remove", "remove-tentative-xid"]), XIDS),
    ),
    max_size=40,
)


def held(replayed: ReplayedQueue) -> list[bytes]:
    """The bytes of the items."""
    texts = [each.path.read_bytes() for each in replayed.files]
    return [texts[each.file][each.at : each.at + each.size] for each in replayed.items]


def of_files(folder: Path, *contents: bytes) -> ReplayedQueue:
    """What files with these contents hold, in this order."""
    files = []
    for number, content in enumerate(contents):
        path = folder / f"q.{number}"
        path.write_bytes(content)
        files.append(JournalFile(path, len(content)))
    return replay(files)


def test_the_documented_operations(tmp_path: Path) -> None:
    """Each operation of the document, written out as bytes by hand."""
    journal = bytes.fromhex(
        "04 05000000"  # save_xid 5
        "07 06000000 11000000 0100000000000000 0000000000000000 41"  # add_xid 6: A
        "03"  # remove_tentative: the next number, 6
        "02 11000000 0100000000000000 0000000000000000 42"  # addx B
        "00 05000000 00000000 43"  # add C
        "02 11000000 0100000000000000 0000000000000000 44"  # addx D
        "09 07000000"  # remove_tentative 7: B
        "01"  # remove: C
        "05 06000000"  # unremove 6: A is at the head
        "06 07000000"  # confirm_remove 7: B is gone
    )
    assert held(of_files(tmp_path, journal)) == [b"A", b"D"]


def test_open_transactions_are_at_the_head(tmp_path: Path) -> None:
    """In the order of their numbers, whatever the order in which they were opened."""
    ops = [*adds(4), Op("remove-tentative-xid", 9), Op("remove-tentative-xid", 3), Op("remove-tentative-xid", 5)]
    found = of_files(tmp_path, encoded(ops))
    assert held(found) == [b"job 1", b"job 2", b"job 0", b"job 3"]
    assert found.given_back == 3
    assert found.unread == []


def test_a_number_in_use_is_not_given_again(tmp_path: Path) -> None:
    """A remove without a number gets the next one that no open transaction has."""
    ops = [*adds(3), Op("remove-tentative-xid", 2), Op("save-xid", 1), Op("remove-tentative"), Op("confirm-remove", 3)]
    assert held(of_files(tmp_path, encoded(ops))) == [b"job 0", b"job 2"]


def test_expiry_is_read_from_both_forms(tmp_path: Path) -> None:
    """Seconds in the old form, milliseconds in the new one."""
    ops = [Op("add", data=b"a", expires_ms=7000), Op("addx", data=b"b", expires_ms=7001), Op("addx", data=b"c")]
    assert [each.expires_ms for each in of_files(tmp_path, encoded(ops)).items] == [7000, 7001, 0]


@settings(deadline=None, max_examples=examples(150))
@given(OPS, st.lists(st.integers(0, 40), max_size=3))
def test_whole_journals(ops: list[Op], cuts: list[int]) -> None:
    """Any operations, in any number of files."""
    places = [0, *sorted(min(cut, len(ops)) for cut in cuts), len(ops)]
    files = [encoded(ops[begin:end]) for begin, end in pairwise(places)]
    with tempfile.TemporaryDirectory() as folder:
        found = of_files(Path(folder), *files)
        assert held(found) == model(ops)
        assert found.unread == []


@settings(deadline=None, max_examples=examples(150))
@given(OPS, st.data())
def test_a_torn_tail(ops: list[Op], data: st.DataObject) -> None:
    """A journal that ends at any byte holds what its whole operations say, and the rest is reported."""
    whole = encoded(ops)
    size = data.draw(st.integers(0, len(whole)))
    kept, end = 0, 0
    while kept < len(ops) and end + len(ops[kept].encode()) <= size:
        end += len(ops[kept].encode())
        kept += 1
    with tempfile.TemporaryDirectory() as folder:
        found = of_files(Path(folder), whole[:size])
        assert held(found) == model(ops[:kept])
        assert [(each.position, each.lost_bytes, each.tail) for each in found.unread] == (
            [(end, size - end, True)] if end < size else []
        )


@settings(deadline=None, max_examples=examples(100))
@given(
    OPS,
    OPS,
    st.sampled_from([b"\x0a", b"\x7f", b"\xff", b"\x02\x0f\0\0\0", b"\x02\xff\xff\xff\xff", b"\x00\x03\0\0\0"]),
)
def test_damage_in_an_older_file(before: list[Op], after: list[Op], damage: bytes) -> None:
    """The rest of the file is left out and reported as damage; the next file is read."""
    first = encoded(before)
    with tempfile.TemporaryDirectory() as folder:
        found = of_files(Path(folder), first + damage + b"more", encoded(after))
        assert held(found) == model([*before, *after])
        (unread,) = found.unread
        assert (unread.position, unread.lost_bytes, unread.tail) == (len(first), len(damage) + 4, False)


def test_a_torn_operation_in_an_older_file_is_damage(tmp_path: Path) -> None:
    """What follows in the next file belongs to what is missing, so this is more than a torn tail."""
    (unread,) = of_files(tmp_path, encoded(adds(1))[:-1], encoded(adds(1))).unread
    assert not unread.tail


@settings(deadline=None, max_examples=examples(150))
@given(st.binary(max_size=80))
def test_any_bytes(content: bytes) -> None:
    """Whatever is in a file, it is read or reported; nothing is read beyond its end."""
    with tempfile.TemporaryDirectory() as folder:
        found = of_files(Path(folder), content)
        assert all(each.at + each.size <= len(content) for each in found.items)
        assert all(each.lost_bytes > 0 for each in found.unread)


def test_a_journal_of_kestrel_3_is_named(tmp_path: Path) -> None:
    """Its format is another one."""
    (unread,) = of_files(tmp_path, b"\x27\x64\x26\x03" + bytes(20)).unread
    assert "Kestrel 3" in unread.what


def test_the_order_of_files(tmp_path: Path) -> None:
    """Rotated files by their time, as numbers; then the current one."""
    for name in ("q.904", "q.1000", "q.20", "q", "other", "q~~123", "q.5~~1", "readme.txt", "q.9x"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    found = read_directory(tmp_path)
    assert {queue: [each.path.name for each in files] for queue, files in found.queues.items()} == {
        "other": ["other"],
        "q": ["q.20", "q.904", "q.1000", "q"],
    }
    assert found.other == ("q.9x", "readme.txt")


@pytest.mark.parametrize(
    ("names", "order", "replaced"),
    [
        (["q.950.pack", "q.904", "q.950", "q.951", "q"], ["q.950.pack", "q.951", "q"], {"q.904", "q.950"}),
        (["q.50", "q.100", "q.100.pack", "q.3000", "q"], ["q.100.pack", "q.3000", "q"], {"q.50", "q.100"}),
        (["q.10.pack", "q.20.pack", "q.15", "q.30"], ["q.20.pack", "q.30"], {"q.10.pack", "q.15"}),
        (["q.7.pack"], ["q.7.pack"], set()),
    ],
)
def test_packed_files(tmp_path: Path, names: list[str], order: list[str], replaced: set[str]) -> None:
    """A pack replaces every file with the same or an earlier time. The first case is the document's own."""
    for name in names:
        (tmp_path / name).touch()
    found = read_directory(tmp_path)
    assert [each.path.name for each in found.queues["q"]] == order
    assert set(found.replaced) == replaced


def test_rotated_and_packed_files_are_one_journal(tmp_path: Path) -> None:
    """A pack with an open transaction, a rotated file that confirms it, and the current file."""
    write(tmp_path / "q.100", adds(50))
    write(tmp_path / "q.100.pack", [Op("addx", data=b"open"), Op("remove-tentative-xid", 4), *adds(2)])
    write(tmp_path / "q.200", [Op("confirm-remove", 4), Op("remove"), *adds(1, 7)])
    write(tmp_path / "q", [Op("remove-tentative-xid", 5), *adds(1, 9)])
    assert held(replay(read_directory(tmp_path).queues["q"])) == [b"job 1", b"job 7", b"job 9"]


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(JournalsError, match="missing"):
        read_directory(tmp_path / "missing")
