"""What is to become of a job, and the rules by which a command's exit status decides it. Pure values.

Sources of the codes: sysexits.h (65 EX_DATAERR, 75 EX_TEMPFAIL), qmail-command(8) (100 permanent, 111 temporary), and
the shell's 126 (not executable) and 127 (not found), in POSIX's "Exit Status for Commands".
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import Final

REJECTING: Final = frozenset({65, 100})
CANNOT_RUN: Final = frozenset({126, 127})

LONGEST_DELAY_S: Final = 30 * 86_400.0
"""The longest delay of a nack. Source: openapi.yaml, NackRequest."""
MAX_REASON: Final = 1000
"""What the gateway stores of a reason. Source: openapi.yaml, Reason."""


class Action(Enum):
    """give back: as if the job had not been taken. leave: somebody else settles the lease."""

    ACK = "ack"
    NACK = "nack"
    REJECT = "reject"
    GIVE_BACK = "give back"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class WorkVerdict:
    """reason: for people. delay_s: of a nack; None: the worker's back-off. stop: ends the worker with this exit code.

    unavailable: no job can be done now, so the next one comes after a pause of pause_s or more.
    """

    action: Action
    reason: str = ""
    delay_s: float | None = None
    stop: int | None = None
    unavailable: bool = False
    pause_s: float = 0


ACKED: Final = WorkVerdict(Action.ACK)


def of_exit(code: int, stderr: bytes) -> WorkVerdict:
    """The verdict for a command's exit status. code: as subprocess gives it, negative for a signal. stderr: its end."""
    if code == 0:
        return ACKED
    if code in CANNOT_RUN:
        return WorkVerdict(Action.GIVE_BACK, reason(f"exit status {code}: the command cannot run", stderr), stop=code)
    what = f"killed by {_signal(-code)}" if code < 0 else f"exit status {code}"
    return WorkVerdict(Action.REJECT if code in REJECTING else Action.NACK, reason(what, stderr))


def reason(what: str, stderr: bytes) -> str:
    """What happened and the end of the standard error, in at most MAX_REASON characters."""
    text = " ".join(stderr.decode("utf-8", "replace").split())
    if not text:
        return what
    room = MAX_REASON - len(what) - 2
    return f"{what}: {text if len(text) <= room else '…' + text[-room + 1 :]}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
