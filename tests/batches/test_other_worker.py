"""Batches that are settled through another worker of the gateway than the one that holds them."""

import pytest

from tests.batches.test_batches import enqueue, left, states, take
from tests.lab.examples import examples
from tests.lab.gateway import running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """Two workers; each new connection reaches one of them."""
    with running(tmp_path_factory.mktemp("two") / "data", "--workers", "2") as shared:
        yield shared


def anew(gateway, method, path, body=None):
    """The answer on a connection of its own."""
    with gateway.client() as http:
        return http.request(method, path, json=body) if body is not None else http.request(method, path)


@pytest.mark.parametrize("turn", range(examples(6, fewest=3)))
def test_every_command_reaches_its_owner(gateway, turn):
    """Checkpoint, extension, settlement, and the state of each job, on connections of their own."""
    queue = f"other{turn}"
    with gateway.client() as http:
        enqueue(http, queue, 6)
        _, url = take(http, queue)
    assert anew(gateway, "POST", url + "/ack", {"upto": 2}).status_code == 204
    assert anew(gateway, "POST", url + "/ack", {"upto": 9}).json()["code"] == "invalid-body"
    extended = anew(gateway, "POST", url + "/extend", {"lease_seconds": 30}).json()
    assert [job["state"] for job in extended["jobs"]] == ["acked"] * 2 + ["held"] * 4
    wanted = {"rest": "ack", "nacks": [{"job": 3, "position": "head"}], "rejects": [{"job": 5}]}
    assert anew(gateway, "POST", url + "/settle", {"rest": "ack", "acks": [{"id": "x"}]}).status_code == 400
    settled = anew(gateway, "POST", url + "/settle", wanted)
    assert [each["status"] for each in settled.json()["results"]] == [204] * 6
    assert anew(gateway, "POST", url + "/settle", wanted).json() == settled.json()
    with gateway.client() as http:
        assert states(http, url) == ["acked", "acked", "acked", "nacked", "acked", "rejected"]
        assert left(http, queue) == [3]
