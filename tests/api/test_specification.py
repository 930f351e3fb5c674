"""openapi.yaml against the code: the same paths, the same errors, the same limits, the same examples."""

import ast
import json
import re

import jsonschema_rs
import pytest

from gateway.api.specification import Specification, default_lease, longest_lease
from gateway.envelope.write import EnqueueContext, wrap_event
from gateway.errors import GatewayError, IdempotencyInFlight, Internal, InvalidEvent, InvalidParameter, error_classes
from gateway.settings import Settings
from tests.contract_file.rules import resolve
from tests.lab.yaml_text import parse_yaml

METHODS = ("get", "post", "put", "delete", "options")
EVERYWHERE = {400, 431, 503}
"""The server itself answers these to requests that it cannot read, and above its limit of connections."""


@pytest.fixture(scope="module")
def document(root):
    return parse_yaml((root / "openapi.yaml").read_text())


def operations(document):
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def test_every_path_is_served_and_none_else(gateway, document):
    """Each documented path and method reaches its operation; any other method on it is a 405 that lists just those."""
    with gateway.client() as http:
        for path, item in document["paths"].items():
            target = path.replace("{queue}", "nosuch").replace("{lease}", "x" * 56)
            answer = http.request("PATCH", target)
            allowed = set(answer.headers["allow"].split(", "))
            documented = {method.upper() for method in METHODS if method in item}
            undocumented = {"HEAD", "OPTIONS"} if path in ("/", "/livez", "/readyz") else {"HEAD"}
            assert (answer.status_code, allowed - undocumented) == (405, documented)


def test_every_error_code_is_documented(document):
    """The codes in the document are the codes in the code."""
    documented = set(document["components"]["schemas"]["ProblemCode"]["enum"])
    assert documented == {each.code for each in error_classes().values()} - {"lease-gone"}


def test_every_error_says_what_it_is():
    """Each error has a title, a status that fits its family, and a time where it may be tried again."""
    for each in error_classes().values():
        assert each.title
        assert 400 <= each.status <= 599
        assert (each.status in {429, 503} or each is IdempotencyInFlight) == (each.retry_after_s is not None)
    assert GatewayError.code == Internal.code


def test_an_unknown_outcome_does_not_say_that_nothing_was_done(root):
    """What was surely not carried out has an error of its own, which may be tried again."""
    texts = [path.read_text() for path in (root / "gateway").rglob("*.py")]
    nodes = [each for text in texts if "OutcomeUnknown(" in text for each in ast.walk(ast.parse(text))]
    calls = [each for each in nodes if isinstance(each, ast.Call) and getattr(each.func, "id", "") == "OutcomeUnknown"]
    found = ["".join(str(each.value) for each in ast.walk(call) if isinstance(each, ast.Constant)) for call in calls]
    assert len(found) > 5
    assert [each for each in found if re.search(r"nothing (was|is)|not (carried|stored|asked|sent)", each)] == []


def test_every_operation_documents_what_can_go_wrong(document):
    """Every operation lists the server's own errors, those of a key, those of a body, and 500 where it does work."""
    for path, _, operation in operations(document):
        statuses = {int(status) for status in operation["responses"]}
        assert statuses >= EVERYWHERE, path
        if operation["security"] or path.startswith("/queues"):
            assert statuses >= {403, 500}, path
        if operation["security"]:
            assert statuses >= {401, 429}, path
        if "requestBody" in operation:
            assert statuses >= {408, 413}, path
        assert operation["operationId"]
        assert operation["summary"]


def test_the_code_for_an_unknown_subscription_is_documented(gateway, document):
    """The description of each 404 of an operation that takes jobs names the code for a subscription that is unknown."""
    with gateway.client() as http:
        for path in ("/queues/{queue}/next", "/queues/{queue}/leases", "/queues/{queue}/stream", "/next", "/stream"):
            for method in document["paths"][path].keys() & {"get", "post"}:
                if (path, method) == ("/queues/{queue}/leases", "get"):  # it lists leases, and has no 404
                    continue
                target = path.replace("{queue}", "nosuch+child")
                query = {} if target != path or method == "post" else {"queue": "nosuch+child"}
                body = {"queues": ["nosuch+child"]} if (path, method) == ("/next", "post") else None
                answer = http.request(method, target, params=query, json=body)
                described = resolve(document, document["paths"][path][method]["responses"]["404"])["description"]
                assert answer.status_code == 404
                assert f"`{answer.json()['code']}`" in described, (path, method)


def test_every_example_fits_its_schema(document):
    """The examples people copy are valid."""
    schemas, examples = [], []
    for _, _, operation in operations(document):
        bodies = [operation.get("requestBody", {})]
        bodies += [resolve(document, each) for each in operation["responses"].values()]
        for body in bodies:
            for media in body.get("content", {}).values():
                if isinstance(media.get("schema"), dict):
                    found = media.get("examples", {}).values()
                    examples += [each["value"] for each in found]
                    schemas += [media["schema"]] * len(found)
    # All at once: a validator for each would read all components each time.
    jsonschema_rs.validate({"prefixItems": schemas, "components": document["components"]}, examples)
    assert len(examples) >= 4


EVENT = {"specversion": "1.0", "source": "/web", "type": "t"}
GOOD = (
    {"type": "a b"},
    {"type": "é😀"},
    {"source": "/é"},
    {"source": "urn:x:%41?q=[1]#a'"},
    {"subject": "a\u2028b"},
    {"subject": None},
    {"dataschema": "/ü"},
    {"datacontenttype": "text/plain; charset=utf-8", "data": "x"},
    {"datacontenttype": "application/json; charset=utf-8", "data": {}},
    {"datacontenttype": 'multipart/mixed; boundary="a,b"', "data": "x"},
    {"datacontenttype": "text/plain", "data": None, "data_base64": "AA=="},
    {"data": 1, "data_base64": None},
    {"data": None, "data_base64": None},
    {"data_base64": None},
    {"datacontenttype": "text/plain", "data": None},
    {"id": None, "time": None, "dataschema": None, "datacontenttype": None, "ext": None},
    {"ext": "a\U0001f600b"},
    {"deadreason": {}, "attempt": "x"},
)
BAD = (
    {"type": ""},
    {"type": None},
    {"type": "a\tb"},
    {"type": "a\ufffeb"},
    {"source": "a b"},
    {"source": "a\u00a0b"},
    {"source": "\ufeff"},
    {"source": "<a>"},
    {"source": "a\\b"},
    {"subject": "\ufdd0"},
    {"subject": ""},
    {"dataschema": "a b"},
    {"datacontenttype": "*/*"},
    {"datacontenttype": "text/plain, text/html"},
    {"datacontenttype": "text/plain "},
    {"datacontenttype": "not a type"},
    {"datacontenttype": "text/plain; charset=utf-8", "data": {}},
    {"data": 1, "data_base64": "AA=="},
    {"ext": "\x85"},
    {"ext": 1.5},
)


STAMP = EnqueueContext("/", 0.0)


def test_events_are_what_cloudevents_allows():
    """The gateway checks events itself: their rules are more than a schema can say that every generator reads."""
    for change in GOOD:
        wrap_event(json.dumps(EVENT | change).encode(), job_id="1", stamp=STAMP)
    for wrong in BAD:
        with pytest.raises(InvalidEvent):
            pytest.fail(f"{wrong}: {wrap_event(json.dumps(EVENT | wrong).encode(), job_id='1', stamp=STAMP)}")


def test_the_document_is_served_as_it_is(gateway, root):
    """With default settings the file's document is served, as YAML and as JSON, but for the keys nobody needs."""
    document = parse_yaml((root / "openapi.yaml").read_text())
    keyed = [each for path in document["paths"].values() for each in path.values() if "security" in each]
    assert keyed
    for each in keyed:
        each["security"] = []
    del document["components"]["securitySchemes"]
    with gateway.client() as http:
        assert parse_yaml(http.get("/openapi.yaml").text) == document
        assert http.get("/openapi.json").json() == document


def test_no_lease_outlives_kestrel_s_own_limit():
    """With openTransactionTimeout named, the longest lease stays below it, so that an ack's proof holds."""
    settings = Settings(kestrel_open_timeout_s=30, kestrel_command_timeout_s=5, default_lease_s=60)
    assert default_lease(settings) == longest_lease(settings) == 25
    query = Specification(settings).operation("nextJob").query
    assert query(b"lease_seconds=25")["lease_seconds"] == 25
    with pytest.raises(InvalidParameter):
        query(b"lease_seconds=25.1")
    assert default_lease(Settings(kestrel_open_timeout_s=6, kestrel_command_timeout_s=5)) == 1


def test_a_query_that_is_remembered_is_the_same_as_one_that_is_new():
    """Asked often, with more kinds than are remembered, and among them ones that are refused: each gets its own."""
    query = Specification(Settings()).operation("nextJob").query
    for _ in range(2):
        for number in range(600):
            assert query(b"timeout=0.%03d" % number)["timeout"] == number / 1000
            with pytest.raises(InvalidParameter):
                query(b"timeout=-%d" % number)
