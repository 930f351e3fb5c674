"""Ports for servers that tests start: below those of outgoing connections, and each process's own."""

import multiprocessing
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.lab.ports import BLOCK, CLAIM, PORTS, free_port

OTHER = """
from tests.lab.ports import free_port
print(*(free_port() for _ in range(20)), flush=True)
input()
"""


def test_a_port_is_given_once():
    """Also if nobody listens on it meanwhile, and beyond one block."""
    given = [free_port() for _ in range(BLOCK + 10)]
    assert len(set(given)) == len(given)


def test_no_outgoing_connection_has_such_a_port():
    """The kernel takes those from above."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert PORTS.stop <= first
    assert free_port() in PORTS


def test_two_processes_have_no_block_in_common(root):
    """Also if one was forked from the other. The blocks of a process that has ended are free."""
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    free_port()
    with multiprocessing.get_context("fork").Pool(1) as forked:
        given = [forked.apply(free_port) for _ in range(20)]
    blocks = [{(int(port) - PORTS.start) // BLOCK for port in ports} for ports in (given, [free_port()])]
    assert other.stdout is not None
    blocks.append({(int(port) - PORTS.start) // BLOCK for port in other.stdout.readline().split()})
    other.communicate("\n")
    assert len(set.union(*blocks)) == sum(map(len, blocks)), blocks
    for block, claimed in ((min(blocks[1]), True), (min(blocks[-1]), False)):
        name = CLAIM.format(PORTS.start + block * BLOCK)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
            with pytest.raises(OSError, match="in use") if claimed else nullcontext():
                claim.bind(name)
