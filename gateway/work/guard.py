"""Ends the commands of a worker that was killed. Runs as a separate process and imports only the standard library.

Its standard input is a socket. Each command writes `+NUMBER PID` before it begins: no command runs that the guard does
not know. Each PID is a process group. The worker writes `-NUMBER` when the command has ended, or could not begin. When
the input ends, the worker has ended: the remaining groups get SIGTERM, and SIGKILL after the number of seconds in the
argument.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

_LOOK_S = 0.1
"""How often it looks whether the groups have ended, once the worker is dead."""


def main() -> None:
    # The signals of a service manager or a terminal are for the worker. This ends when the worker does.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin.buffer:
        command, _, pid = line[1:].partition(b" ")
        if line[:1] == b"+":
            groups[int(command)] = int(pid)
        else:
            groups.pop(int(command), None)
    ends_s = time.monotonic() + float(sys.argv[1])
    left = {each for each in groups.values() if _sent(each, signal.SIGTERM)}
    while left and time.monotonic() < ends_s:
        time.sleep(_LOOK_S)
        left = {each for each in left if _sent(each, 0)}
    for each in left:
        _sent(each, signal.SIGKILL)


def _sent(group: int, number: int) -> bool:
    """Whether the group exists and got the signal."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    main()
