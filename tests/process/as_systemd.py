"""Runs `kestrel-gateway` as systemd starts a service that has a socket unit: DESCRIPTOR COUNT ARGUMENT..."""

import os
import sys

from gateway import cli

if __name__ == "__main__":
    descriptor, count = sys.argv[1:3]
    del sys.argv[1:3]
    os.dup2(int(descriptor), 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count)
    cli.main()
