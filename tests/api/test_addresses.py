"""Only operators see the addresses of the Kestrel servers."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import httpx
import pytest

from tests.api.keyring import Keyring
from tests.api.relay import Relay
from tests.lab import plain
from tests.lab.broker import BrokerProcess
from tests.lab.examples import some
from tests.lab.gateway import Running

ADDRESS = re.compile(r"127\.0\.0\.1|localhost|unix:|\.sock|:[0-9]{2,5}\b|/tmp|Errno")
EVENTS = [{"specversion": "1.0", "id": name, "source": "/s", "type": "t"} for name in "ab"]


class Unready(Running):
    """Serves, although no server answers."""

    def ready(self) -> bool:
        return plain.get(self.url + "/livez", timeout=2).status_code == 200


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    ring = Keyring(tmp_path_factory.mktemp("keys") / "keys.toml")
    ring.add("tenant", scopes="produce consume admin")
    ring.add("operator", scopes="produce consume admin operator")
    return ring


def asked(http: httpx.Client) -> list[httpx.Response]:
    """What every operation says that asks a server."""
    batch = {"content-type": "application/cloudevents-batch+json"}
    return [
        http.post("/queues/q/jobs", json=1),
        http.post("/queues/q/jobs", json=EVENTS, headers=batch),
        http.post("/queues/q/jobs", content=b"1\n2\n", headers={"content-type": "application/x-ndjson"}),
        http.get("/queues/q/next?timeout=0"),
        http.get("/queues/q/next?timeout=1"),
        http.get("/queues"),
        http.get("/queues/q"),
        http.get("/queues/q?detail=servers"),
        http.get("/queues/q/peek"),
        http.post("/queues/q/flush"),
        http.delete("/queues/q"),
        http.post("/queues/q/redrive"),
        http.get("/queues/q/dead-letters"),
        http.get("/queues/q/dead-letters/peek"),
        http.delete("/queues/q/dead-letters"),
        http.get("/readyz"),
    ]


TARGETS = some(["unix:{folder}/gone.sock", "localhost:{port}", "127.0.0.1:{port}"], fewest=2)
"""One message names all of them, with the reason of the system."""


@pytest.mark.parametrize("address", TARGETS)
def test_a_server_that_is_away_is_not_named(tmp_path: Path, keyring: Keyring, address: str) -> None:
    """Every 503 to an operator names it, those to others do not; the log names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # no process listens there
        target = address.format(port=taken.getsockname()[1], folder=tmp_path)
        gateway = Unready(tmp_path / "data", "--keys", str(keyring.path), "--kestrel", target)
        try:
            with keyring.client(gateway, "tenant") as http:
                answers = asked(http)
            assert {answer.status_code for answer in answers} == {503}
            for answer in answers:
                assert not ADDRESS.search(answer.json()["detail"]), answer.text
                assert not any(ADDRESS.search(value) for name, value in answer.headers.items() if name != "date")
            with keyring.client(gateway, "operator") as http:
                named = [answer for answer in asked(http) if target in answer.json()["detail"]]
            assert len(named) >= 10
            assert target in gateway.log.read_text()
        finally:
            gateway.kill()


def test_an_outcome_that_is_unknown_names_no_server(tmp_path: Path, keyring: Keyring) -> None:
    """A 502, and the results of a batch that was sent and not answered."""
    with BrokerProcess(tmp_path / "near", "--fsync", "off") as broker, Relay(broker.port) as relay:
        gateway = Running(tmp_path / "data", "--keys", str(keyring.path), "--kestrel", relay.address)
        try:
            with keyring.client(gateway, "tenant") as http:
                assert http.post("/queues/q/jobs", json=1).status_code == 201
                figures = http.get("/queues/q?detail=servers").json()
                assert [each["server"] for each in figures["servers"]] == ["server-1"]
                assert not ADDRESS.search(str(figures))
                relay.lose = 100
                for content_type, body in (("application/json", b"1"), ("application/x-ndjson", b"1\n2\n")):
                    answer = http.post("/queues/q/jobs", content=body, headers={"content-type": content_type})
                    assert answer.status_code in (502, 207)
                    said = answer.json()
                    for each in said.get("results", [said]):
                        assert each["code"] in ("outcome-unknown", "backend-unavailable")
                        assert not ADDRESS.search(each["detail"]), each
        finally:
            gateway.kill()
