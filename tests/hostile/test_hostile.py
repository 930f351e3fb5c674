"""The short form of `python -m tests.hostile`: a tenant with valid keys does its worst; another one does not notice."""

from pathlib import Path

from tests.hostile.__main__ import SLOWER, run
from tests.hostile.attacks import ATTACKS

FLOOR_MS = 50.0
"""In so short a run the 99th percentile is one of the worst three: what is below this is noise."""


def test_a_hostile_tenant_is_not_noticed_by_another(tmp_path: Path) -> None:
    """Its calls are as quick, no lease of its expires, its jobs flow; memory stays in its bound and comes back."""
    result = run(tmp_path, alone_s=5, seconds=13, scale=0.2, names=list(ATTACKS), back_s=20)
    faults = result.faults(SLOWER, FLOOR_MS)
    assert not faults, "\n".join([*faults, result.report()])
