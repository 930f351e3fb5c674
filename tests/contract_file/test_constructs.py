"""openapi.yaml holds no construct that a mainstream generator or linter stumbles over."""

import re

import pytest
import yaml

from gateway.errors import error_classes
from tests.contract_file.conftest import Strict
from tests.contract_file.rules import RULES

SCHEMAS = ("components", "schemas")
JOB = ("paths", "/queues/{queue}/jobs", "post")
NEXT = ("paths", "/queues/{queue}/next", "get")
# A rule, a place in the document, and what breaks the rule there.
BREACHES = (
    ("no_unknown_keyword", (*SCHEMAS, "LeaseHandle", "properties", "url"), {"b": None}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease"), {"if": {"type": "object"}}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease"), {"not": {"type": "object"}}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease"), {"propertyNames": {"pattern": "a"}}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease"), {"allOf": [{"$ref": "#/components/schemas/Lease"}]}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease", "properties"), {"x": {"anyOf": [{"type": "null"}]}}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease", "properties"), {"x": {"oneOf": [{"type": "string"}]}}),
    ("no_unknown_keyword", (*SCHEMAS, "Lease", "properties"), {"x": {"const": "a"}}),
    ("no_unknown_keyword", ("components", "parameters", "LeaseSeconds", "schema"), {"default": 60}),
    ("no_unknown_keyword", JOB, {"requestbody": {}}),
    ("every_schema_is_an_object", (*SCHEMAS, "CloudEvent", "properties"), {"tenant": True}),
    ("every_schema_is_an_object", (*JOB, "requestBody", "content"), {"application/json": {"schema": True}}),
    ("one_type", (*SCHEMAS, "Job", "properties"), {"x": {"type": ["string", "integer"]}}),
    ("one_type", (*SCHEMAS, "Job", "properties"), {"x": {"type": "null"}}),
    ("one_type", (*SCHEMAS, "Job", "properties"), {"x": {"type": ["null", "string"]}}),
    ("plain_enums", (*SCHEMAS, "Lease", "properties"), {"x": {"enum": ["head", None]}}),
    ("plain_enums", (*SCHEMAS,), {"Side": {"type": "string", "enum": ["draining"]}}),
    ("portable_patterns", (*SCHEMAS, "QueueName"), {"pattern": r"^[^\x7f]$"}),
    ("portable_patterns", (*SCHEMAS, "QueueName"), {"pattern": "^(?!dead)$"}),
    ("a_reference_is_alone", (*SCHEMAS, "Lease", "properties", "id"), {"description": "The id."}),
    ("no_inline_object", (*SCHEMAS, "Lease", "properties"), {"x": {"type": "object", "properties": {}}}),
    ("no_inline_object", (*SCHEMAS, "SettleResults", "properties", "results"), {"items": {"properties": {}}}),
    ("doubles", (*SCHEMAS, "Queue", "properties"), {"age_s": {"type": "number"}}),
    ("concrete_media_types", (*NEXT, "responses", "200", "content"), {"*/*": {"schema": {}}}),
    ("json_first", (*NEXT, "responses", "204"), {"content": {"text/plain": {}, "application/json": {}}}),
    (
        "one_result",
        (*JOB, "responses"),
        {"202": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}}},
    ),
    ("closed_requests_open_answers", (*SCHEMAS, "Receipt"), {"additionalProperties": False}),
    ("closed_requests_open_answers", (*SCHEMAS, "Place"), {"enum": ["head"]}),
    ("closed_requests_open_answers", (*SCHEMAS, "Reason"), {"properties": {}}),
    ("no_end_of_comment", NEXT, {"description": "As with Accept: */* always."}),
    ("distinct_names", ("components", "responses"), {"Lease": {"description": "A lease."}}),
    ("distinct_names", ("components", "parameters", "BackendInPath"), {"name": "server"}),
    ("readable_operations", JOB, {"operationId": "nextJob"}),
    ("readable_operations", JOB, {"operationId": "enqueue_job"}),
    ("sentences", (*SCHEMAS, "LeaseId"), {"description": "opaque"}),
)


def merged(document, path, change):
    """The document with a change in one place. All else is shared with it."""
    broken = place = dict(document)
    for key in path:
        place[key] = dict(place[key])
        place = place[key]
    place |= change
    return broken


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_file_keeps_to_the_rule(document, rule):
    """Each rule is about a construct that broke a generator or a linter."""
    assert list(rule(document)) == []


@pytest.mark.parametrize(("name", "path", "change"), BREACHES)
def test_each_rule_finds_its_breach(document, name, path, change):
    """A construct of the kind, put into the file, is found by its rule."""
    rule = {each.__name__: each for each in RULES}[name]
    assert list(rule(merged(document, path, change)))


def test_every_rule_has_a_breach():
    """No rule is there that could not fail."""
    assert {name for name, _, _ in BREACHES} == {each.__name__ for each in RULES}


def test_a_key_that_comes_twice_is_found():
    """The loader of these tests refuses what others read silently."""
    with pytest.raises(ValueError, match="twice"):
        yaml.load("a: {b: 1, b: 2}", Strict)


def test_the_problem_codes_are_those_of_the_code(document):
    """Every code is named once and has its meaning; `lease-gone` is a base that nothing answers."""
    schema = document["components"]["schemas"]["ProblemCode"]
    codes = {each.code for each in error_classes().values()} - {"lease-gone"}
    assert sorted(codes) == schema["enum"]
    assert re.findall("^- `(.*?)`: [A-Z].*[.]$", schema["description"], re.MULTILINE) == schema["enum"]


def test_shapes_that_are_alike_stay_alike(document):
    """A schema that repeats another, because unions and extension break generators, has the same members."""
    schemas = document["components"]["schemas"]

    def shape(name, *without):
        """Its members' schemas without the words, and which of them are required."""
        members = schemas[name]["properties"]
        kept = {each: plain(schema) for each, schema in members.items() if each not in without}
        return kept, set(schemas[name]["required"]) - set(without)

    assert shape("Delivery", "lease") == shape("Job")
    assert shape("ServerQueue", "server") == shape("Queue", "servers", "pause", "delayed")
    assert shape("SettleNack", "lease")[0] == {
        name: plain(each) for name, each in schemas["NackRequest"]["properties"].items()
    }
    assert shape("SettleReject", "lease")[0] == {
        name: plain(each) for name, each in schemas["RejectRequest"]["properties"].items()
    }


def plain(schema):
    return {keyword: value for keyword, value in schema.items() if keyword != "description"}
