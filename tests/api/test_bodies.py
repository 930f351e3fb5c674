"""JSON bodies that are orders: what is wrong with one is named, with what was meant; white space alone is no body."""

import re

import pytest

from gateway.api.request.hints import MEMBERS, member
from tests.lab.yaml_text import parse_yaml

LENGTH = "the body must be a JSON object with lease_seconds"
LISTS = "the body must be a JSON object with acks, nacks or rejects"
NO_LEASE = "/leases/" + "x" * 56
LONG = '{"x": 1, "x": 2}'.replace("x", "x" * 90)


def post(http, path, body):
    return http.post(path, content=body, headers={"content-type": "application/json"})


WRONG = [
    (
        "/queues/q/leases",
        '{"timout": 1}',
        "unknown member 'timout'; did you mean timeout? Allowed are timeout, lease_s",
    ),
    ("/queues/q/leases", '{"wait": 1}', "unknown member 'wait'; did you mean timeout? Allowed are "),
    ("/queues/q/leases", '{"zzz": 1}', "unknown member 'zzz'; allowed are timeout, lease_seconds, ack"),
    ("/queues/q/leases", '{"timeout": 90}', "timeout: 90 is greater than the maximum of 45"),
    ("/queues/q/leases", "[]", "the body must be a JSON object"),
    (NO_LEASE + "/extend", "{}", "lease_seconds is missing"),
    (NO_LEASE + "/extend", '{"lease_seconds": null}', "lease_seconds is missing"),
    (NO_LEASE + "/extend", '{"lease_second": 5}', "unknown member 'lease_second'; did you mean lease_seconds?"),
    (NO_LEASE + "/extend", "", LENGTH),
    (NO_LEASE + "/extend", " \n", LENGTH),
    (NO_LEASE + "/extend", "null", LENGTH),
    (NO_LEASE + "/extend", "[]", LENGTH),
    (NO_LEASE + "/nack", '{"dealy": 5}', "unknown member 'dealy'; did you mean delay? Allowed are position, delay"),
    (NO_LEASE + "/nack", '{"delay_seconds": 5}', "unknown member 'delay_seconds'; did you mean delay?"),
    ("/leases/settle", "", LISTS),
    ("/leases/settle", "null", LISTS),
    ("/leases/settle", "5", LISTS),
    ("/leases/settle", '{"ack": []}', "unknown member 'ack'; did you mean acks? Allowed are acks, nacks, rejects"),
    ("/leases/settle", '{"nacks": [{"lease_id": "x"}]}', "nacks.0: unknown member 'lease_id'; did you mean lease?"),
    ("/leases/settle", '{"nacks": [{}]}', "nacks.0: lease is missing"),
    ("/queues/q/leases", b'{"ack": "\xff"}', "the body is not JSON: not UTF-8 at byte 9"),
    ("/queues/q/redrive", '{"maximum": 5}', "unknown member 'maximum'; did you mean max? Allowed are max"),
]


def test_what_is_wrong_with_a_body_is_named(http):
    """With the member that was meant, and those there are."""
    for path, body, detail in WRONG:
        answer = post(http, path, body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body"), body
        assert answer.json()["detail"].startswith(detail), body


@pytest.mark.parametrize(
    ("path", "member"),
    [("/queues/q/leases", "ack"), ("/leases/settle", "nacks"), (NO_LEASE + "/extend", "lease_seconds")],
)
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_a_body_is_nested_deeply(http, path, member, brackets):
    """However deeply: the answer is 400, and the gateway does not fail."""
    opening, closing = brackets
    for levels in (200, 300, 990, 1020, 1030, 5000):
        answer = post(http, path, f'{{"{member}": {opening * levels}1{closing * levels}}}')
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body"), levels
        if levels > 255:
            assert answer.json()["detail"].startswith("the body is nested too deeply; "), levels


def test_an_unknown_member_is_shown_cut(http):
    """Whatever its length."""
    answer = post(http, "/queues/q/leases", '{"%s": 1}' % ("x" * 5000))
    assert answer.json()["detail"].startswith("unknown member '" + "x" * 80 + "'; allowed are ")
    assert len(answer.json()["detail"]) <= 300


@pytest.mark.parametrize("body", [b"", b"\n", b" ", b"\t\r\n  ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_white_space_alone_is_an_absent_body(http, queue, body):
    """Where the body is optional, as a shell or an editor leaves it."""
    for operation in ("ack", "nack", "reject"):
        http.post(f"/queues/{queue}/jobs", json=1)
        leased = post(http, f"/queues/{queue}/leases", body)
        assert leased.json()["jobs"][0]["data"] == 1
        assert post(http, f"{leased.json()['lease']['url']}/{operation}", body).status_code == 204
        post(http, f"/queues/{queue}/flush", b"")
    assert post(http, f"/queues/{queue}/redrive", body).status_code == 200


def test_the_length_of_a_lease_has_its_former_name_here_too(http, queue):
    """`lease`, as in the query of `next` and when a lease is extended; two that differ are an error."""
    http.post(f"/queues/{queue}/jobs", json=1)
    differ = post(http, f"/queues/{queue}/leases", '{"lease": 500, "lease_seconds": 6}')
    assert differ.json()["detail"] == "lease and lease_seconds differ; send only lease_seconds"
    leased = post(http, f"/queues/{queue}/leases", '{"lease": 500, "timeout": 5}').json()
    shown = http.get(leased["lease"]["url"]).json()
    assert shown["state"] == "held"
    assert leased["jobs"][0]["data"] == 1
    assert http.post(leased["lease"]["url"] + "/ack").status_code == 204


def test_every_hint_of_a_member_is_of_the_contract(root):
    """Each name that is suggested is a member of some body, or a query parameter."""
    document = parse_yaml((root / "openapi.yaml").read_text())
    members = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", ())}
    assert members >= MEMBERS.keys()
    for name in ("zzz", "x" * 50_000, "", "\x00"):
        assert member(name, ["position", "delay", "reason"]) == ""


def json_bodies(root):
    """The method and the path of each operation whose body is a JSON object, with names for its parameters."""
    document = parse_yaml((root / "openapi.yaml").read_text())
    named = {"{lease}": "x" * 56, "{queue}": "q", "{letter}": "x"}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
            if "$ref" in content.get("application/json", {}).get("schema", {}):
                yield method, re.sub(r"{[a-z]+}", lambda found: named.get(found[0], "x"), path)


def test_a_member_that_is_given_twice_is_refused_in_every_body(http, root):
    """Readers disagree about which of the two counts, so half of the request would be ignored."""
    operations = list(json_bodies(root))
    for method, path in operations:
        answer = http.request(method, path, content=b'{"x": 1, "x": 2}', headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body"), (method, path, answer.text)
        if path != "/queues/q/jobs/batch":
            expected = "the member 'x' is given more than once; send it once"
            assert answer.json()["detail"] == expected, (method, path)
    assert len(operations) > 10


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"nacks": [{"job": 0}], "nacks": [{"job": 1}], "rest": "ack"}', "nacks"),
        ('{"nacks": [{"job": 0, "delay": 5, "delay": 0}], "rest": "ack"}', "delay"),
        ('{"rest": null, "rest": "ack"}', "rest"),
        ('\ufeff{"rest": "ack", "r\\u0065st": "nack"}', "rest"),
        ('{"reason": "a:b", "\\ud800": 1, "\\ud800": 2}', "\\ud800"),
        (LONG, "x" * 80),
    ],
)
def test_nothing_is_done_if_a_member_is_given_twice(http, queue, body, name):
    """At whatever place it is, and however it is written; the job stays leased."""
    http.post(f"/queues/{queue}/jobs", json=1)
    url = http.get(f"/queues/{queue}/next?max=2").json()["lease"]["url"]
    refused = post(http, f"{url}/settle", body.encode())
    assert refused.json()["detail"] == f"the member '{name}' is given more than once; send it once"
    assert http.get(url).json()["state"] == "held"
    assert http.post(url + "/ack").status_code == 204


def test_names_in_strings_are_no_members(http, queue):
    """A reason may contain JSON, and two objects may have the same members."""
    for number in range(2):
        http.post(f"/queues/{queue}/jobs", json=number)
    url = http.get(f"/queues/{queue}/next?max=2").json()["lease"]["url"]
    body = {"nacks": [{"job": 0, "reason": '{"a":1,"a":2}'}, {"job": 1, "reason": '"job":1,"job":2'}], "rest": "ack"}
    assert http.post(url + "/settle", json=body).status_code == 200


def test_a_payload_may_have_a_member_twice(http, queue):
    """It is the producer's, and stays as it is."""
    payload = b'{"a":1,"a":2}'
    assert post(http, f"/queues/{queue}/jobs", payload).status_code == 201
    assert http.get(f"/queues/{queue}/next?format=raw&ack=auto").content == payload
