"""SIGTERM and Ctrl-C: all processes end, whatever clients and children do at the time, without the whole grace."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.lab import plain
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port
from tests.lab.processes import group_lives
from tests.lab.waiting import until
from tests.process.test_supervisor import Serve, serve

__all__ = ["serve"]  # the fixture

GRACE_S = 40
HALF_SENT = b"POST /queues/q/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx"


def stop(one: Serve, number: signal.Signals) -> None:
    """Signals the whole group and waits until none of it is left, for half of the grace at most."""
    os.killpg(one.process.pid, number)
    until(lambda: one.process.poll() is not None and not group_lives(one.process.pid), within_s=GRACE_S / 2)
    assert one.process.returncode == 0


@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGINT)])
def test_half_sent_bodies_do_not_hold_up_the_stop(
    serve: Callable[..., Serve], workers: str, number: signal.Signals
) -> None:
    """Ten clients in the middle of a body, and one that does not read its answer."""
    one = serve("--workers", workers, "--grace", str(GRACE_S)).ready()
    with contextlib.ExitStack() as clients:
        for _ in range(10):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", one.port)))
            client.sendall(HALF_SENT)
        assert one.get("/livez").status_code == 200
        stop(one, number)
    assert "did not end in time" not in one.text()


@pytest.mark.parametrize("frozen", ["gateway.broker", "gateway.process.worker", "both"])
def test_frozen_children_do_not_hold_up_the_stop(serve: Callable[..., Serve], frozen: str) -> None:
    """A child that does not react is killed in time; nothing that was answered is lost by that."""
    one = serve("--grace", str(GRACE_S)).ready()
    names = ["gateway.broker", "gateway.process.worker"] if frozen == "both" else [frozen]
    for name in names:
        os.kill(one.child(name), signal.SIGSTOP)
    stop(one, signal.SIGTERM)
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
