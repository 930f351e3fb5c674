"""The log line of a request: who sent it, which job it is about, and at which level it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.api.keyring import Keyring
from tests.api.test_leases import take
from tests.lab.gateway import Running, running
from tests.lab.waiting import until


def lines(gateway: Running, wanted: int) -> list[dict[str, Any]]:
    """The lines of requests about leases and queues, as soon as there are that many."""

    def found() -> list[dict[str, Any]]:
        written = gateway.log.read_text().splitlines()
        every = [json.loads(line) for line in written if line.startswith("{") and line.endswith("}")]
        return [each for each in every if each["message"] == "request" and each["path"] != "/readyz"]

    until(lambda: len(found()) >= wanted)
    return found()


def test_a_line_names_the_client_and_the_job(tmp_path: Path) -> None:
    """Address, key, tenant, queue, job, bytes and wait; never a payload, and no whole lease id."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("shop", "acme")
    flags = ("--log-format", "json", "--keys", str(ring.path))
    with running(tmp_path / "data", *flags) as gateway, ring.client(gateway, "shop") as http:
        job = http.post("/queues/emails/jobs", json="the-payload").json()
        lease = take(http, "emails")["lease"]
        assert http.post(lease["url"] + "/ack").status_code == 204
        assert http.get("/queues/none").status_code == 404
        stored, taken, acked, missing = lines(gateway, 4)
    for line in (stored, taken, acked, missing):
        assert (line["client"], line["key"], line["tenant"], line["level"]) == ("127.0.0.1", "shop", "acme", "info")
    for line in (stored, taken, acked):
        assert (line["queue"], line["job"]) == ("emails", job["id"])
    assert stored["bytes"] == taken["bytes"] == len('"the-payload"')
    assert 0 <= taken["wait_ms"] < 60_000
    assert (missing["status"], missing["code"]) == (404, "queue-not-found")
    text = gateway.log.read_text()
    assert "the-payload" not in text
    assert lease["id"] not in text


def test_expected_outcomes_may_be_left_out(tmp_path: Path) -> None:
    """With `--log-expected debug` only problems have a line, unless everything is logged."""
    with running(tmp_path / "data", "--log-format", "json", "--log-expected", "debug") as gateway:
        with gateway.client() as http:
            assert http.get("/queues/q/next?timeout=0").status_code == 204
            assert http.get("/queues/none").status_code == 404
        assert [line["status"] for line in lines(gateway, 1)] == [404]
    flags = ("--log-format", "json", "--log-expected", "debug", "--log-level", "debug")
    with running(tmp_path / "all", *flags) as gateway:
        with gateway.client() as http:
            assert http.get("/queues/q/next?timeout=0").status_code == 204
        (line,) = lines(gateway, 1)
        assert (line["status"], line["level"]) == (204, "debug")
