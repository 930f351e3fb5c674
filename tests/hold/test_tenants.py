"""What one tenant sends on very many connections at one instant does not hold the event loop for another one."""

import contextlib
import socket
import time

from gateway.fairness.loop_time import REFUSED
from tests.api.keyring import Keyring
from tests.hold.worker import Worker, reference_s
from tests.lab.broker import BrokerProcess

CONNECTIONS = 500
TRIES = 3


def test_a_flood_of_requests_of_one_tenant(tmp_path):
    """Hundreds that arrive in one turn of the loop are read in many."""
    keys = Keyring(tmp_path / "keys.toml")
    many, quiet = (
        b"GET /queues/q/peek HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n"
        % keys.add(name, name).encode()
        for name in ("many", "quiet")
    )
    with BrokerProcess(tmp_path / "broker", "--fsync", "off") as broker, contextlib.ExitStack() as stack:
        worker = Worker(tmp_path / "worker", f"127.0.0.1:{broker.port}", log_level="error", keys=keys.path)
        stack.callback(worker.close)
        connect = lambda: stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), 60))  # noqa: E731
        asker, *flood = [connect() for _ in range(CONNECTIONS)]

        def ask(connections, request):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                assert connection.recv(65536).startswith(b"HTTP/1.1 ")

        for start in range(0, CONNECTIONS, 20):  # each has sent a request, so its tenant is known
            ask(flood[start : start + 20], many)
        tries = []
        for _ in range(TRIES):
            with worker.held() as held:
                ask([asker], quiet)
                worker.loop.call_soon_threadsafe(time.sleep, 0.2)  # the flood gathers; it takes none of its time
                ask(flood, many)
            tries.append((held[0], reference_s()))
            if held[0] < tries[-1][1]:
                return
        raise AssertionError(f"the loop was held for {tries} s: what it was held, and what 20 ms are here")


def test_who_is_charged_for_a_refused_request(tmp_path):
    """The tenant of its key. Without a valid key it is nobody who sends probes, so these do not wait for it."""
    keys = Keyring(tmp_path / "keys.toml")
    keys.add("consumer", "many", "consume")
    with BrokerProcess(tmp_path / "broker", "--fsync", "off") as broker, contextlib.ExitStack() as stack:
        worker = Worker(tmp_path / "worker", f"127.0.0.1:{broker.port}", log_level="error", keys=keys.path)
        stack.callback(worker.close)

        def charged(*accounts: str) -> bool:
            """Whether these have used time of the loop; a step is charged just after its answer is sent."""
            for _ in range(500):
                if set(worker.loop_time._free_at_s) == set(accounts):
                    return True
                time.sleep(0.01)
            return False

        with worker.client() as http:
            wrong = http.get("/queues/q/peek", headers={"Authorization": "Bearer wrong"})
            assert wrong.status_code == 401
            assert charged(REFUSED)
            assert http.get("/queues/q/peek", headers=keys.bearer("consumer")).status_code == 403
            assert charged(REFUSED, "many")
