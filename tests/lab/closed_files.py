"""The commands of the gateway without some of the standard files, as after `kestrel-gateway queues >&-`.

    ForkedProcess([sys.executable, "-m", "tests.lab.closed_files", "1,2", "queues"])

Python notices at its start which of them are closed, and has no object for these. A forked process began with all of
them, so here it is made equal to one that did not.
"""

from __future__ import annotations

import os
import sys

from gateway import cli

NAMES = ("stdin", "stdout", "stderr")


def main() -> None:
    for number in map(int, sys.argv.pop(1).split(",")):
        os.close(number)
        for name in (NAMES[number], f"__{NAMES[number]}__"):
            setattr(sys, name, None)
    cli.main()


if __name__ == "__main__":
    main()
