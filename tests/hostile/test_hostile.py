"""The short form of `python -m tests.hostile`: a tenant with a valid key does its worst, and another hardly notices."""

from pathlib import Path

import pytest

NOTICED_MS = 250.0
"""On a busy machine the disk alone makes some calls as slow. Without shares of the loop's time they take a second."""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("scopes", ["produce consume", "produce consume admin"])
def test_a_hostile_tenant_breaks_nothing_of_another_one(tmp_path: Path, scopes: str) -> None:
    """No call of another tenant is refused or slow, no lease of its expires, and memory stays within its bound.

    How much slower its calls are than without the attack, and whether memory is returned, the long form tells.
    """
    from tests.hostile.__main__ import CALLS, run  # makes large bodies, which no other test needs

    result = run(tmp_path, scopes=scopes, alone_s=2, seconds=10, back_s=0)
    faults = result.broken()
    for call in CALLS:
        if result.beside.p99_ms(call) > max(NOTICED_MS, 3 * result.quiet.p99_ms(call)):
            faults.append(f"{call}: p99 {result.beside.p99_ms(call):.0f} ms")
    assert not faults, "\n".join([*faults, result.report()])
