"""What a request says counts by its value, whatever its bytes: percent-encoded, repeated, in another case."""

from datetime import datetime

import pytest


def encoded(name):
    """Every letter of the name percent-encoded."""
    return "".join(f"%{ord(letter):02x}" for letter in name)


def first_letter(name):
    return f"%{ord(name[0]):02X}{name[1:]}"


WRITINGS = pytest.mark.parametrize("written", [encoded, first_letter], ids=["all", "first"])


def length_of(answer):
    """Whole seconds from now until the lease ends."""
    ends = datetime.fromisoformat(answer.json()["lease"]["expires_at"])
    return round((ends - datetime.now(ends.tzinfo)).total_seconds())


@WRITINGS
@pytest.mark.parametrize("name", ["lease", "lease_seconds"])
def test_a_lease_has_the_length_that_was_asked_for(http, queue, written, name):
    """`?%6cease=7` is `?lease=7`, under both names of the parameter."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get(f"/queues/{queue}/next?timeout=0&{written(name)}=7")
    assert (answer.status_code, length_of(answer)) == (200, 7)


@WRITINGS
def test_a_timeout_outranks_prefer(http, queue, written):
    """A `timeout` that was given counts, and `Prefer: wait` does not."""
    answer = http.get(f"/queues/{queue}/next?{written('timeout')}=0", headers={"prefer": "wait=5"})
    assert (answer.status_code, "preference-applied" in answer.headers) == (204, False)


@WRITINGS
def test_a_lease_is_acked_on_the_way(http, queue, written):
    """`ack` of `next`."""
    http.post(f"/queues/{queue}/jobs", json=1)
    lease = http.get(f"/queues/{queue}/next?timeout=0").json()["lease"]["id"]
    answer = http.get(f"/queues/{queue}/next?timeout=0&{written('ack')}={lease}")
    assert (answer.status_code, answer.headers["lease-acked"]) == (204, "true")


@WRITINGS
@pytest.mark.parametrize("path", ["peek", "next"])
def test_the_bytes_are_asked_for(http, queue, written, path):
    """`format=raw` of `peek` and `next`."""
    http.post(f"/queues/{queue}/jobs", json=[1, 2])
    answer = http.get(f"/queues/{queue}/{path}?{written('format')}=r%61w")
    assert answer.content == b"[1,2]"


@WRITINGS
def test_a_job_has_its_time(http, queue, written):
    """`ttl` and `receipt` of an enqueue."""
    answer = http.post(f"/queues/{queue}/jobs?{written('ttl')}=0.001&{written('receipt')}=n%6fne", json=1)
    assert (answer.status_code, answer.content) == (204, b"")
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


@WRITINGS
def test_a_list_is_what_was_asked_for(http, queue, written):
    """`filter`, `sort`, `limit` and `cursor` of the list; `detail` of one queue."""
    for number in range(3):
        http.post(f"/queues/{queue}{number}/jobs", json=1)
    first = http.get(f"/queues?{written('filter')}=name~{queue}*&{written('sort')}=-name&{written('limit')}=2").json()
    assert [each["queue"] for each in first["queues"]] == [f"{queue}2", f"{queue}1"]
    cursor = first["next"].rpartition("cursor=")[2]
    query = f"filter=name~{queue}*&sort=-name&limit=2&{written('cursor')}={cursor}"
    assert [each["queue"] for each in http.get(f"/queues?{query}").json()["queues"]] == [f"{queue}0"]
    assert "servers" in http.get(f"/queues/{queue}0?{written('detail')}=servers").json()


@WRITINGS
def test_one_key_is_for_one_request_however_it_is_written(http, queue, written):
    """With an Idempotency-Key `?%74tl=60` is the same request as `?ttl=60`, and `?ttl=61` is another."""
    headers = {"idempotency-key": "one"}
    first = http.post(f"/queues/{queue}/jobs?ttl=60", json=1, headers=headers)
    again = http.post(f"/queues/{queue}/jobs?{written('ttl')}=60.0&receipt=full", json=1, headers=headers)
    assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (201, first.json(), "true")
    assert http.post(f"/queues/{queue}/jobs?ttl=61", json=1, headers=headers).status_code == 422


def test_accept_is_read_as_a_list(http, queue):
    """Several Accept headers are one; a type is known in any case, and one with the weight 0 is not taken."""

    def nack(*accepted):
        http.post(f"/queues/{queue}/jobs", json=1)
        lease = http.get(f"/queues/{queue}/next?timeout=0").json()["lease"]["url"]
        answer = http.post(lease + "/nack", headers=[("accept", each) for each in accepted])
        http.post(f"/queues/{queue}/flush")
        return answer.status_code

    assert nack("text/html", "Application/JSON") == 200
    assert nack("application/json;q=0, text/html") == 204
    assert nack("application/json, */*;q=0.1") == 204


def test_two_ordering_keys_are_none(http, queue):
    """A header that may have one value and has two is an error, and nothing is stored."""
    headers = [("ordering-key", "a"), ("ordering-key", "b")]
    answer = http.post(f"/queues/{queue}/jobs", content=b"1", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert "Ordering-Key is given 2 times" in answer.json()["detail"]


@pytest.mark.parametrize("values", [["Prefetch"], ["x", "prefetch"]])
def test_a_prefetch_takes_nothing(http, queue, values):
    """In any case of its letters, and in the second of two headers."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get(f"/queues/{queue}/next?timeout=0", headers=[("sec-purpose", each) for each in values])
    assert answer.status_code == 403
