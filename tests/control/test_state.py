"""The control state as a value: states that are merged in any order are equal, and an item is removed for one only."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.control import state as state_module
from gateway.delivery.control.state import (
    KEPT_S,
    TOMBSTONES,
    ControlEntry,
    ControlItem,
    ControlState,
    EntryKey,
    unpack,
)

NOW_MS = 1_800_000_000_000

keys = st.tuples(st.sampled_from(["pause", "other"]), st.sampled_from(["a", "b", "c"]))
entries = st.builds(ControlEntry, st.integers(NOW_MS, NOW_MS + 5), st.sampled_from([None, {"until": 1}, {}, True]))
states = st.dictionaries(keys, entries, max_size=6).map(lambda found: ControlState(found.items()))
items = st.builds(ControlItem, st.sampled_from(["1", "2", "3"]), states)


def merged(*parts: ControlState) -> ControlState:
    result = ControlState()
    for each in parts:
        result.merge(each)
    return result


@given(states, states, states)
def test_states_merge_in_any_order(first: ControlState, second: ControlState, third: ControlState) -> None:
    """Every order and grouping gives the same state, and merging twice changes nothing."""
    wanted = merged(first, second, third)
    for order in itertools.permutations((first, second, third)):
        assert merged(*order) == wanted
    assert merged(first, merged(second, third)) == wanted
    assert merged(wanted, first, second) == wanted
    assert wanted.covers(first)
    assert wanted.merge(second) == []


@given(states, keys, st.sampled_from([None, {"until": 2}]), st.integers(0, 2 * NOW_MS))
def test_a_change_wins_also_if_the_clock_is_behind(
    state: ControlState, at: EntryKey, value: object, now_ms: int
) -> None:
    """The entry that replaces one is newer than it, whatever the clock of the writer says."""
    change = ControlState([(at, state.next_entry(at, value, now_ms))])
    for order in ((state, change), (change, state)):
        found = merged(*order).get(at)
        assert found is not None
        assert found.value == value


@given(items, items, items)
def test_replaces_is_a_strict_order(first: ControlItem, second: ControlItem, third: ControlItem) -> None:
    """No two items replace each other, so writers that meet never remove both."""
    assert not first.replaces(first)
    assert not (first.replaces(second) and second.replaces(first))
    if first.replaces(second) and second.replaces(third):
        assert first.replaces(third)


deletions = st.dictionaries(keys, st.builds(ControlEntry, st.integers(NOW_MS, NOW_MS + 5), st.none()), max_size=6)
deleted = st.builds(
    ControlItem, st.sampled_from(["1", "2", "3"]), deletions.map(lambda found: ControlState(found.items()))
)


@given(st.tuples(deleted | items, deleted | items, deleted | items))
def test_no_item_is_removed_for_one_that_it_replaces(three: tuple[ControlItem, ControlItem, ControlItem]) -> None:
    """Also where old tombstones are dropped, and not by a detour: writers that meet never remove all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "TOMBSTONES", 1)
        for each in three:
            each.state.prune(NOW_MS)
        first, second, third = three
        assert not first.replaces(first)
        assert not (first.replaces(second) and second.replaces(first))
        assert not (first.replaces(second) and second.replaces(third) and third.replaces(first))


@given(deleted, deleted)
def test_what_is_merged_replaces_both(first: ControlItem, second: ControlItem) -> None:
    """It does not lack the tombstones that it has no room for, so writers come to an end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "TOMBSTONES", 1)
        both = ControlItem("4", merged(first.state, second.state))
        for each in (first, second, both):
            each.state.prune(NOW_MS)
        assert both.replaces(first)
        assert both.replaces(second)


@given(items)
def test_an_item_keeps_its_state(item: ControlItem) -> None:
    """What is packed is unpacked, with entries of kinds that this version does not know."""
    found = unpack(item.pack())
    assert found.id == item.id
    assert found.state == item.state


@given(st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[]", b'{"kestrel-gateway-control":1}', b"null"])))
def test_other_bytes_have_no_entries(data: bytes) -> None:
    """An item that no gateway has written counts as empty."""
    assert len(unpack(data).state) == 0


def test_tombstones_are_kept_for_a_while() -> None:
    """Old tombstones and those above the limit are dropped; values never are."""
    old_ms = NOW_MS - KEPT_S * 1000 - 1
    state = ControlState(
        [
            (("pause", "old"), ControlEntry(old_ms, None)),
            (("pause", "value"), ControlEntry(old_ms, {})),
            *((("pause", f"t{n}"), ControlEntry(NOW_MS - n, None)) for n in range(TOMBSTONES + 5)),
            (("other", "t"), ControlEntry(NOW_MS, None)),
        ]
    )
    state.prune(NOW_MS)
    left = {name for _, name in state}
    assert "old" not in left
    assert {"value", "t", "t0", f"t{TOMBSTONES - 1}"} <= left
    assert f"t{TOMBSTONES}" not in left
