"""SIGTERM: all processes end, whatever the children do at the time, without the whole grace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.lab import plain
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port
from tests.lab.processes import group_lives
from tests.lab.waiting import until
from tests.process.test_supervisor import GRACE_S, Serve, serve

__all__ = ["serve"]  # the fixture


def stop(one: Serve) -> None:
    """Terminates the whole group and waits until none of it is left, for half of the grace at most."""
    os.killpg(one.process.pid, signal.SIGTERM)
    until(lambda: one.process.poll() is not None and not group_lives(one.process.pid), within_s=GRACE_S / 2)
    assert one.process.returncode == 0


@pytest.mark.parametrize("frozen", ["gateway.broker", "gateway.process.worker", "both"])
def test_frozen_children_do_not_hold_up_the_stop(serve: Callable[..., Serve], frozen: str) -> None:
    """A child that does not react is killed in time; nothing that was answered is lost by that."""
    one = serve("--grace", str(GRACE_S)).ready()
    names = ["gateway.broker", "gateway.process.worker"] if frozen == "both" else [frozen]
    for name in names:
        os.kill(one.child(name), signal.SIGSTOP)
    stop(one)
    assert one.text().count("did not end in time; killing it") == len(names)


def test_a_slow_broker_has_its_own_time_after_the_grace(serve: Callable[..., Serve]) -> None:
    """A lease uses the whole grace; a broker that then does nothing for a second is not killed, and stops in order."""
    port = free_port()
    one = serve("--grace", "1", "--broker-listen", f"127.0.0.1:{port}").ready()
    broker, url = one.child("gateway.broker"), f"http://127.0.0.1:{one.port}"
    plain.post(f"{url}/queues/q/jobs", json=1, timeout=30)
    assert plain.get(f"{url}/queues/q/next", timeout=5).status_code == 200
    with contextlib.closing(MemcacheClient(f"127.0.0.1:{port}")) as client:
        one.process.terminate()
        until(lambda: "draining, at most" in one.text())
        for _ in range(100):  # turns of the broker's loop, in one of which it reads its channel
            assert client.ask(b"version\r\n").startswith(b"VERSION")
    os.kill(broker, signal.SIGSTOP)
    until(lambda: not any("gateway.process.worker" in each for each in one.children().values()))
    with pytest.raises(subprocess.TimeoutExpired):
        one.process.wait(1)
    os.kill(broker, signal.SIGCONT)
    assert one.process.wait(20) == 0
    assert "broker did not end in time" not in one.text()
