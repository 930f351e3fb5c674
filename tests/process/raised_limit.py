"""Prints the soft limit of open files, and what is short of it, for each of these numbers of connections, where the
system allows 1,500."""

import resource
import sys

from gateway.process.descriptors import prepare
from gateway.settings import Settings

if __name__ == "__main__":
    for count in map(int, sys.argv[1:]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1500))
        told = prepare(Settings(max_connections=count, max_leases=50, max_waits=50), embedded=True)
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], *told, sep=": ")
