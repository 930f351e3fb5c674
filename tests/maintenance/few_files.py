"""Runs `kestrel-gateway` where the system allows only so many open files: COUNT ARGUMENT..."""

import resource
import sys

from gateway import cli

if __name__ == "__main__":
    count = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
    cli.main()
