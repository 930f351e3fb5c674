"""Statistics as servers print them."""

import pytest

from gateway.kestrel.wire.stats import OpenReadCounts, names_in_stats, parse_dump, parse_open_reads, parse_stats
from gateway.queue_stats import QueueStats

DUMP = """queue 'p' {
  items=3
  bytes=40
  total_items=7
  logsize=34
  expired_items=1
  mem_items=3
  mem_bytes=40
  age=896
  discarded=2
  waiters=4
  open_transactions=5
  transactions=9
  canceled_transactions=6
  total_flushes=8
  journal_rewrites=0
  journal_rotations=0
  children=p+child,p+other
}
queue 'nosuch' {

}
queue 'p+child' {
  items=1
}"""


def test_a_dump_is_read_by_queue():
    """Kestrel 2.4.8's dump_stats, line by line; what is not known is passed over."""
    queues = parse_dump(DUMP.splitlines())
    assert queues["p"] == QueueStats(
        items=3, bytes=40, age_ms=896, waiters=4, open_reads=5, total_items=7, expired_items=1, discarded=2,
        children=frozenset({"p+child", "p+other"}),
    )  # fmt: skip
    assert queues["p+child"].items == 1
    assert "nosuch" not in queues
    assert parse_dump([]) == {}
    assert parse_dump([""]) == {}, "as a Kestrel without a queue answers"


def test_an_age_that_kestrel_does_not_know_is_none():
    """A queue of which nothing was ever read is as old as 1970 for it; a server that knows decides."""
    never, read = (
        {"dump": parse_dump(["queue 'q' {", "  items=1", f"  age={age}", "}"])["q"], "stats": parse_stats(lines)["q"]}
        for age in (1795450690776, 31_000)
        for lines in [[f"STAT queue_q_{name}" for name in ("items 1", "open_transactions 0", f"age {age}")]]
    )
    for way in ("dump", "stats"):
        assert (never[way].age_ms, read[way].age_ms) == (0, 31_000)
        assert (never[way] + read[way]).age_ms == 31_000


def test_what_is_set_aside_is_told_of_the_queue_that_was_asked_for_or_not_at_all():
    """An absent queue holds nothing; any other answer without the figure proves nothing."""
    group = DUMP[: DUMP.index("}") + 1]
    assert parse_open_reads(group.splitlines(), "p") == OpenReadCounts(open_reads=5, given_back=6)
    assert parse_open_reads(["queue 'gone' {", "  ", "}"], "gone") == OpenReadCounts()
    silent = ["queue 'p' {", "  items=0", "}"]
    odd = ["queue 'p' {", "  open_transactions=x", "  canceled_transactions=0", "}"]
    for lines in ([], [""], ["queue 'p' {"], ["queue 'p' {", "}"], ["queue 'q' {", "  ", "}"], silent, odd):
        assert parse_open_reads(lines, "p") is None, lines
    assert parse_open_reads(DUMP.splitlines(), "nosuch") is None, (
        "a server that names all queues does not know the question"
    )


def test_names_and_some_queues_alone_are_what_all_figures_say():
    """The server's own counters look like a queue's, and a queue's name may begin as another's does."""
    lines = [
        f"STAT queue_{line}"
        for name in ("a", "a_total", "b")
        for line in (f"{name}_items 3", f"{name}_total_items 7", f"{name}_open_transactions 1")
    ]
    lines += ["STAT queue_expires 3", "STAT total_items 7", "STAT queue_deletes 7"]
    whole = parse_stats(lines)
    assert names_in_stats(lines) == set(whole) == {"a", "a_total", "b"}
    assert parse_stats(lines, ["b"]) == {"b": whole["b"]}
    assert parse_stats(lines, ["a"])["a"] == whole["a"]


@pytest.mark.parametrize("lines", [["x"], ["queue 'p' {"], ["queue 'p' {", "items"], ["queue 'p' {", "  items=x", "}"]])
def test_a_dump_that_is_none_raises(lines):
    """Half a dump is no statistics."""
    with pytest.raises(ValueError):
        parse_dump(lines)


def test_underscores_in_names_are_told_from_statistics():
    """`queue_a_total_items` belongs to `a`, `queue_a_total_total_items` to `a_total`."""
    lines = ["STAT version 2.4.8", "STAT curr_items 9"]
    for name, items in (("a", 1), ("b_total", 2), ("c_open", 3)):
        lines += [f"STAT queue_{name}_{stat} {items}" for stat in ("items", "total_items", "open_transactions", "age")]
    queues = parse_stats(lines)
    assert {name: stats.items for name, stats in queues.items()} == {"a": 1, "b_total": 2, "c_open": 3}
    assert queues["a"].total_items == queues["a"].age_ms == queues["a"].open_reads == 1


def test_the_figures_of_two_servers_are_added():
    """Counts are added, the older age counts."""
    assert QueueStats(items=1, age_ms=5) + QueueStats(items=2, age_ms=3) == QueueStats(items=3, age_ms=5)
