"""The short form of the program that kills; see its module for the long one."""

import pytest

from tests.delay import kills


@pytest.mark.slow
def test_kills_make_no_delayed_job_early_and_lose_none(tmp_path):
    """A worker, the broker and the whole gateway, every two seconds; jobs and nacks with delays."""
    history = kills.run(tmp_path, jobs=150, nacks=40, longest_s=5.0, seconds=9.0)
    assert history.kills >= 3
    assert len(history.due) > 50
    assert (history.early, history.lost) == ([], [])
    assert history.twice <= 5 * history.kills
    assert history.copies <= history.twice
    assert history.left == (0, 0)
