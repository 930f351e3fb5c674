"""Ports for servers that tests start: below those of outgoing connections, and each worker's own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.ports import SLOT, free_port


def ports_of(root, worker):
    """What another process gives, as that worker of a test run; None: as no worker."""
    code = f"""
from tests.lab.ports import free_port, take_slot
if {worker} is not None:
    take_slot({worker})
print(*(free_port() for _ in range(20)))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return {int(port) for port in ran.stdout.split()}


def test_a_port_is_given_once():
    """Also if nobody listens on it meanwhile."""
    given = [free_port() for _ in range(50)]
    assert len(set(given)) == 50


@pytest.mark.parametrize("worker", [0, 3, None])
def test_no_outgoing_connection_has_such_a_port(root, worker):
    """The kernel takes those from above."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports_of(root, worker)) < first


def test_two_workers_have_no_port_in_common(root):
    """Whatever they begin with."""
    slots = [{port // SLOT for port in ports_of(root, worker)} for worker in (0, 1, None)]
    assert [len(slot) for slot in slots] == [1, 1, 1]
    assert len(set.union(*slots)) == 3
