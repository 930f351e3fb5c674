"""The short form of `python -m tests.hostile`: a tenant with valid keys does its worst and breaks nothing of others."""

import os
from pathlib import Path

import pytest

from tests.hostile.__main__ import run
from tests.hostile.attacks import ATTACKS


@pytest.mark.skipif(
    "KESTREL_GATEWAY_TEST_HOSTILE" not in os.environ,
    reason="KESTREL_GATEWAY_TEST_HOSTILE is not set: stalls above 2 s, which end a lease of 3 s, are known",
)
def test_a_hostile_tenant_breaks_nothing_of_another_one(tmp_path: Path) -> None:
    """No call of another tenant is refused, no lease of its expires, its jobs flow; memory stays within its bound.

    How much slower its calls are, and whether memory comes back, the long form says: it takes a machine that is quiet.
    """
    result = run(tmp_path, alone_s=3, seconds=12, scale=0.1, names=list(ATTACKS), back_s=0)
    faults = result.broken()
    assert not faults, "\n".join([*faults, result.report()])
