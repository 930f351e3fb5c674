"""Ties processes that tests start to the life of the test run: when pytest is killed, they end as well.

    subprocess.Popen(tied("gateway", "serve"), stdin=lifeline())

Run as a script it is the child: it runs a module as `python -m` would, and ends at once when its standard input does.
"""

from __future__ import annotations

import functools
import os
import runpy
import sys
import threading


def tied(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """The command that runs `module` on a lifeline."""
    return [python, __file__, module, *arguments]


@functools.cache
def lifeline() -> int:
    """The standard input of every such process: the read end of a pipe that only this process could write to."""
    return os.pipe()[0]


def end_with_the_tests() -> None:
    """From now on this process ends when its standard input does."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_the_tests()
    sys.path[0] = os.getcwd()  # noqa: PTH109 (a string is wanted)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
