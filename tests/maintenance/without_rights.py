"""Runs `kestrel-gateway` as a root who must obey the rights of files: without the capabilities that override them.

Exits with REFUSED if this process may not give them up.
"""

import ctypes
import sys

from gateway import cli

REFUSED = 77
PR_CAPBSET_DROP = 24  # Source: sys/prctl.h
CAPABILITIES = (1, 2, 3)  # dac_override, dac_read_search, fowner. Source: linux/capability.h
VERSION_3 = 0x20080522


def give_up() -> bool:
    """Also for programs that this process executes. Whether it was allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if any(libc.prctl(PR_CAPBSET_DROP, each, 0, 0, 0) for each in CAPABILITIES):
        return False
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the second three are for numbers from 32 on
    if libc.capget(header, sets):
        return False
    for index in range(3):
        sets[index] &= ~sum(1 << each for each in CAPABILITIES)
    return not libc.capset(header, sets)


if __name__ == "__main__":
    if not give_up():
        sys.exit(REFUSED)
    cli.main()
