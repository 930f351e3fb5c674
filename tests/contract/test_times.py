"""Timestamps are read as RFC 3339 says, and Kestrel never drops an item before its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.envelope.times import LATEST_S, RELATIVE_LIMIT_S, instant, timestamp, wire_expiry

NOW_S = 1_769_860_800.123


@pytest.mark.parametrize(
    ("left_s", "expiry"),
    [
        (0.001, 1),
        (1, 1),
        (1.001, 2),
        (1.2, 2),
        (20, 20),
        (999_999, 999_999),
        (999_999.5, 1_770_860_800),
        (RELATIVE_LIMIT_S, 1_770_860_801),
        (LATEST_S - NOW_S, LATEST_S),
        (LATEST_S - NOW_S + 1, 0),
        (-5, 1),
    ],
)
def test_the_wire_s_expiry_is_rounded_up(left_s, expiry):
    """Whole seconds rounded up, at least one; absolute from a million on; never where the field is too small."""
    assert wire_expiry(NOW_S + left_s, NOW_S) == expiry


def test_no_expiry_is_never():
    """An item without `expires` stays."""
    assert wire_expiry(None, NOW_S) == 0


@given(st.floats(1e9, 1.8e9), st.floats(0.001, 3e8))
def test_kestrel_drops_no_item_early_and_none_much_later(now_s, left_s):
    """What the wire says ends with the item's own time, or less than a second and a rounding after it."""
    expiry = wire_expiry(now_s + left_s, now_s)
    ends_s = expiry if expiry >= RELATIVE_LIMIT_S else now_s + expiry
    assert now_s + left_s - 0.001 <= ends_s <= now_s + left_s + 1.001


@given(st.floats(0, 2e9))
def test_a_timestamp_means_its_instant(wall_s):
    """What the gateway writes is read back to the millisecond."""
    assert wall_s - 0.0011 <= instant(timestamp(wall_s)) <= wall_s


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("2026-01-31t12:00:00z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T13:30:00+01:30", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00.123456789123Z", "2026-01-31T12:00:00.123Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
    ],
)
def test_every_form_is_read(text, other):
    """Lower case, offsets, long fractions and leap seconds."""
    assert timestamp(instant(text)) == other


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-01-31", "2026-02-30T00:00:00Z", "2026-01-31T24:00:00Z", "2026-01-31T12:00:00", "20260131T120000Z"]
    + ["2026-01-31T12:00:00+24:00", "2026-01-31 12:00:00Z", "٢026-01-31T12:00:00Z", "2026-01-31T12:00:00Z\n", "0" * 99],
)
def test_what_is_no_timestamp_is_refused(text):
    """A day that does not exist, a missing zone, other digits."""
    with pytest.raises(ValueError):
        instant(text)
