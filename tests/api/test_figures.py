"""The figures of one queue over HTTP."""

import pytest

FIGURES = ("items", "bytes", "age_s", "open_reads", "backlog", "waiters", "total_items", "expired_items")


@pytest.mark.parametrize("detail", ["", "&detail=servers"])
def test_a_missing_queue_is_zero_for_who_asks_so(gateway, detail):
    """Every figure is 0, also by server; nothing is created, and without the parameter the answer stays a 404."""
    with gateway.client() as http:
        answer = http.get(f"/queues/never-used?missing=zero{detail}")
        assert answer.status_code == 200
        body = answer.json()
        assert ({body[each] for each in FIGURES}, body["queue"], body["reachable"]) == ({0}, "never-used", True)
        assert body.get("servers", []) == []
        assert http.get("/queues/never-used").status_code == 404
        listed = {each["queue"] for each in http.get("/queues").json()["queues"]}
        assert "never-used" not in listed


def test_a_queue_that_exists_has_its_own_figures(gateway):
    """`missing` changes nothing then."""
    with gateway.client() as http:
        http.post("/queues/used/jobs", json=1)
        with_it, without = (http.get(f"/queues/used{each}").json() for each in ("?missing=zero", ""))
        assert with_it | {"age_s": 0} == without | {"age_s": 0}
        assert with_it["items"] == 1


def test_the_backlog_is_what_waits_and_what_is_under_a_lease(gateway):
    """A job that is taken still counts; an acked one does not. Lists can be filtered and sorted by it."""
    with gateway.client() as http:
        for number in range(3):
            http.post("/queues/backlog/jobs", json=number)
        lease = http.get("/queues/backlog/next").json()["lease"]["url"]
        figures = http.get("/queues/backlog?detail=servers").json()
        assert (figures["items"], figures["open_reads"], figures["backlog"]) == (2, 1, 3)
        assert [each["backlog"] for each in figures["servers"]] == [3]
        listed = http.get("/queues?filter=name=backlog&filter=backlog>=3&sort=-backlog").json()["queues"]
        assert [each["queue"] for each in listed] == ["backlog"]
        http.post(lease + "/ack")
        assert http.get("/queues/backlog").json()["backlog"] == 2


@pytest.mark.parametrize("value", ["", "one", "ZERO", "zero&missing=zero"])
def test_a_bad_value_is_refused(gateway, value):
    """A 400 that names the parameter."""
    with gateway.client() as http:
        answer = http.get(f"/queues/q?missing={value}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
        assert answer.json()["detail"].startswith("missing: ")
