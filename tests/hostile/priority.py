"""Who runs first where the processors are short: the quiet tenant, then the gateway, then the hostile tenant.

In reality the tenants run on machines of their own. Here they share the gateway's processors, and without an order the
run would measure how the system shares these. The quiet tenant has the same priority alone and beside the attack.

Where other programs load the machine, run it as `chrt -r 2 python -m tests.hostile`: the quiet tenant and the gateway
are real-time processes then, and the hostile tenant has most of what they leave.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_REAL_TIME = {os.SCHED_RR, os.SCHED_FIFO}
_LOWER = 15


def step_back() -> None:
    """From now on this process lets the others of the run go first. It leaves its session, whose members share."""
    os.setsid()
    if os.sched_getscheduler(0) in _REAL_TIME:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        niceness = -_LOWER
    else:
        niceness = _LOWER
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    with contextlib.suppress(OSError):  # where the system shares the processors between sessions
        Path("/proc/self/autogroup").write_text(str(niceness))


@contextlib.contextmanager
def going_first() -> Iterator[None]:
    """Meanwhile this process goes before those that it has started, where it may."""
    policy = os.sched_getscheduler(0)
    priority = os.sched_getparam(0).sched_priority
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        if policy in _REAL_TIME:
            os.sched_setparam(0, os.sched_param(priority + 1))
        else:
            os.nice(-5)
    try:
        yield
    finally:
        os.sched_setparam(0, os.sched_param(priority))
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
