"""The rules for exit statuses, as docs/workers.md has them; reasons; and the delays between attempts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.work import verdict
from gateway.work.job_lease import FailureDelay
from gateway.work.verdict import Action, WorkVerdict, of_exit

ACTIONS = {"(ack)": Action.ACK, "(reject)": Action.REJECT, "(nack)": Action.NACK, "head": Action.GIVE_BACK}


def test_the_document_has_the_rules(root: Path):
    """Each exit status in the table does what the table says; every other one is a failure."""
    table = (root / "docs" / "workers.md").read_text().split("<!-- exit statuses -->")[1]
    named = {}
    for statuses, becomes in re.findall(r"^\| (\d.*?) \| (.*?) \|", table, re.MULTILINE):
        action = next(each for word, each in ACTIONS.items() if word in becomes)
        named |= dict.fromkeys(map(int, re.findall(r"\d+", statuses)), action)
    assert set(named) == {0, 65, 75, 100, 111, 126, 127}
    for code in range(256):
        assert of_exit(code, b"").action is named.get(code, Action.NACK), code
        assert of_exit(code, b"").stop == (code if code in (126, 127) else None)
    assert of_exit(-9, b"") == WorkVerdict(Action.NACK, "killed by SIGKILL")
    assert of_exit(-40, b"").reason == "killed by signal 40"


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (b"", "what"),
        (b" one\n two\r\n", "what: one two"),
        (b"\xff\xfe", "what: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"),
        (b"a" * 994, "what: " + "a" * 994),
        (b"a" * 995, "what: …" + "a" * 993),
    ],
)
def test_a_reason_is_one_line_with_the_end_of_the_text(stderr: bytes, expected: str):
    """It fits into what the gateway stores."""
    assert verdict.reason("what", stderr) == expected


def test_delays_grow_to_a_limit():
    """Twice as long after each attempt, up to a quarter less, and never above the limit."""
    delay = FailureDelay(1, 300)
    for attempt in (1, 2, 5, 9, 10, 1_000_000):
        longest = min(2 ** min(attempt - 1, 20), 300)
        assert all(0.75 * longest <= delay.after(attempt) <= longest for _ in range(100))
    assert FailureDelay(0, 300).after(5) == 0
