"""A program that prints what a process can see of how it was started. It imports little, so that its start is quick.

    python -m tests.lab.surroundings [sleep | fail] [ARGUMENT...]

It ends with 7; `sleep`: when it is signalled; `fail`: by an error that it does not handle.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path


def surroundings() -> dict[str, object]:
    """What this process sees."""
    return {
        "arguments": sys.argv[1:],
        "name": __name__,
        "directory": str(Path.cwd()),
        "environment": dict(os.environ),
        "descriptors": {
            name: str(Path(f"/proc/self/fd/{name}").readlink()).partition(":")[0]
            for name in sorted(os.listdir("/proc/self/fd"), key=int)  # noqa: PTH208 (numbers)
            if Path(f"/proc/self/fd/{name}").exists()
        },
        "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)],
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "handlers": [str(signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        "umask": os.umask(0o22),
        "threads": threading.active_count(),
        "leads its session": os.getsid(0) == os.getpid(),
        "parent": os.getppid(),
        "optimized": sys.flags.optimize,
    }


if __name__ == "__main__":
    if "sleep" in sys.argv:
        time.sleep(60)
    if "fail" in sys.argv:
        print(1 / 0)
    if "end" in sys.argv:
        atexit.register(print, ", at exit", end="")
        threading.Timer(0.2, print, [", a thread has ended"], {"end": ""}).start()
        print("printed", end="")
        sys.exit(9)
    print(json.dumps(surroundings()))
    sys.exit(7)
