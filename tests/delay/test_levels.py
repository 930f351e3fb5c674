"""The levels of the holding queues, and the items on them: no job early, no job lost in arithmetic."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.delay.held_job import HeldJob, unpacked
from gateway.delivery.delay.levels import LEVELS, Hop, next_hop, wait_s
from gateway.envelope.due import LONGEST_DELAY_S, milliseconds

NOW_S = 1_798_761_600.123
DELAYS = st.floats(0.001, LONGEST_DELAY_S)


@given(DELAYS, st.lists(st.floats(0, 0.05), min_size=LEVELS * 2, max_size=LEVELS * 2))
def test_a_job_is_never_early_and_takes_few_hops(delay_s, lateness):
    """Whatever its delay, and however late each hop is, it arrives at its time, at most one hop a level."""
    due, now_s, hops = milliseconds(NOW_S + delay_s), NOW_S, 0
    while due > now_s * 1000:
        hop = next_hop(due, now_s)
        assert hop.until_ms <= due
        assert now_s < hop.until_ms / 1000 <= now_s + 2 * wait_s(hop.level) + 0.001
        now_s = hop.until_ms / 1000 + lateness[hops]
        hops += 1
    assert now_s >= NOW_S + delay_s
    assert now_s <= due / 1000 + 0.0501
    assert hops <= LEVELS + 1


@given(st.lists(st.tuples(st.floats(0, 10), DELAYS), min_size=2, max_size=50))
def test_the_head_may_leave_first(puts):
    """In the order in which jobs come to a level, each may leave no earlier than the ones before it. Level 0 is the
    exception: there a job waits until it is due, up to two of its waits."""
    now_s, levels = NOW_S, defaultdict(list)
    for pause_s, delay_s in puts:
        now_s += pause_s
        hop = next_hop(milliseconds(now_s + delay_s), now_s)
        levels[hop.level].append(hop.until_ms)
    for level, untils in levels.items():
        if level:
            assert untils == sorted(untils)


@given(st.text(max_size=8), st.text(max_size=8), st.binary(max_size=20), st.none() | st.floats(0, 4e9), DELAYS)
def test_a_held_job_comes_back_from_its_item(tenant, queue, data, expires_s, delay_s):
    """With any bytes as its own item, also line breaks and another held job."""
    job = HeldJob(tenant, queue, milliseconds(NOW_S + delay_s), data, expires_s).at(Hop(3, 17), "worker")
    assert unpacked(job.packed()) == job
    assert unpacked(HeldJob("", "q", 1, job.packed()).packed()) == HeldJob("", "q", 1, job.packed())


@given(st.binary(max_size=100))
def test_anything_else_is_no_held_job(data):
    """Nothing that is not written by a gateway is taken for a held job, or raises."""
    assert unpacked(HeldJob("", "q", 1, data).packed().replace(b"held1", b"held2", 1)) is None
    for item in (data, b"held1 " + data, b"held1 " + data + b"\n", b"held1 {}\n", b"held1 []\n", b'held1 {"due":{}}\n'):
        assert unpacked(item) is None
