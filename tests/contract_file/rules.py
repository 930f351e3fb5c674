"""What openapi.yaml keeps to, so that every mainstream generator and linter can read it. Each rule names its breaches.

A rule's docstring says what broke where it was not kept.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.contract_file.walk import KINDS, METHODS, strings, walk

Document = dict[str, Any]
TAKEN = {"server", "client", "body", "ctx", "context", "request", "response", "url", "path", "method", "headers"}
"""Names that generated functions give to variables of their own."""


def no_unknown_keyword(document: Document) -> Iterator[str]:
    """An unquoted comma in `{ type: string, description: a, b }` cuts the text and makes a keyword `b`.

    Keywords that generators cannot read are unknown here. So is `default`: clients in PHP and Python send it always,
    and so overrule the policy of a queue, or an operator's own default.
    """
    for node in walk(document):
        if isinstance(node.value, dict):
            yield from (f"{node.where}: {each}" for each in node.value if each not in KINDS[node.kind])


def every_schema_is_an_object(document: Document) -> Iterator[str]:
    """`schema: true`: openapi-generator, openapi-python-client and oapi-codegen refuse, spectral crashes."""
    for node in walk(document):
        if not isinstance(node.value, dict):
            yield f"{node.where}: {node.value!r}"


def one_type(document: Document) -> Iterator[str]:
    """Type lists other than `[x, "null"]`: oapi-codegen and ogen refuse, the Python generator crashes."""
    for node in schemas(document):
        kind = node.value.get("type", "string")
        if isinstance(kind, list):
            kind = kind[0] if kind[1:] == ["null"] else None
        if kind not in ("string", "integer", "number", "boolean", "object", "array"):
            yield f"{node.where}: {node.value['type']}"


def plain_enums(document: Document) -> Iterator[str]:
    """A `null` among the values becomes a constant, in Go and Java; values that two named enums share collide in Go."""
    seen = Counter(
        constant(value) for schema in document["components"]["schemas"].values() for value in schema.get("enum", ())
    )
    for node in schemas(document):
        values = node.value.get("enum", ["one"])
        named = node.path[:2] == ("components", "schemas") and len(node.path) == 3
        if not values or not all(isinstance(each, str) for each in values):
            yield f"{node.where}: {values}"
        elif named:
            yield from (
                f"{node.where}: {each} is a value of another enum, too" for each in values if seen[constant(each)] > 1
            )


def constant(value: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", value.upper())


def portable_patterns(document: Document) -> Iterator[str]:
    r"""Escapes such as `\x7f` and `\ufdd0` are syntax errors in Ruby; look-around is unknown in Go."""
    for node in schemas(document):
        pattern = node.value.get("pattern", "")
        if not re.fullmatch(r"[ -~]*", pattern) or "\\" in pattern or re.search(r"\(\?[^:]", pattern):
            yield f"{node.where}: {pattern}"
        else:
            re.compile(pattern)


def a_reference_is_alone(document: Document) -> Iterator[str]:
    """Some tools drop the members next to a `$ref`, and others merge them."""
    for node in walk(document):
        if isinstance(node.value, dict) and "$ref" in node.value and len(node.value) > 1:
            yield node.where


def no_inline_object(document: Document) -> Iterator[str]:
    """A nameless object gets a name of the generator's choice, such as SettleRequestNacksInner."""
    for node in schemas(document):
        named = node.path[:2] == ("components", "schemas") and len(node.path) == 3
        if "properties" in node.value and not named:
            yield node.where


def doubles(document: Document) -> Iterator[str]:
    """A number without a format is a float32 in Go and a BigDecimal in Java."""
    for node in schemas(document):
        if node.value.get("type") == "number" and node.value.get("format") != "double":
            yield node.where


def concrete_media_types(document: Document) -> Iterator[str]:
    """A range, such as any type at all, gives `unknown` or `interface{}`; a method sends the first type, or all."""
    for node in walk(document):
        for media_type in node.value.get("content", ()) if isinstance(node.value, dict) else ():
            if not re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", media_type):
                yield f"{node.where}: {media_type}"


def json_first(document: Document) -> Iterator[str]:
    """Generators take the first type of an answer: with another one before it, `nextJob` returned no lease."""
    for node in walk(document):
        content = list(node.value.get("content", ())) if isinstance(node.value, dict) else []
        if "application/json" in content[1:]:
            yield f"{node.where}: {content}"


def one_result(document: Document) -> Iterator[str]:
    """Two shapes of success become a union, or an error in Java after the job is stored."""
    for path, method, operation in operations(document):
        answers = [resolve(document, each) for status, each in operation["responses"].items() if status[0] == "2"]
        shapes = [
            each["content"]["application/json"]["schema"]
            for each in answers
            if "application/json" in each.get("content", {})
        ]
        if any(each != shapes[0] for each in shapes):
            yield f"{method} {path}: {shapes}"


def closed_requests_open_answers(document: Document) -> Iterator[str]:
    """Clients in Go and Java fail at a member that their contract does not name, unless it says that more may come; and
    those in Java and Python at a value that an enum of an answer does not have."""
    answers = {name for _, _, each in operations(document) for name in used(document, each["responses"])}
    requests = {name for _, _, each in operations(document) for name in used(document, each.get("requestBody", {}))}
    for name, schema in document["components"]["schemas"].items():
        if name in answers and schema.get("type") == "object" and schema.get("additionalProperties") is not True:
            yield f"{name}: an answer"
        if name in answers and any("enum" in node.value for node in walk(schema, "schema")):
            yield f"{name}: an enum in an answer"
        if name in requests and "properties" in schema and "additionalProperties" not in schema:
            yield f"{name}: a request"


def used(document: Document, value: Any) -> set[str]:
    """The names of the schemas that the value refers to, directly or not."""
    found: set[str] = set()
    waiting = [each for each in strings(value) if each.startswith("#/components/")]
    while waiting:
        kind, name = waiting.pop().split("/")[2:]
        if kind == "schemas" and name in found:
            continue
        if kind == "schemas":
            found.add(name)
        waiting += [each for each in strings(document["components"][kind][name]) if each.startswith("#/components/")]
    return found


def no_end_of_comment(document: Document) -> Iterator[str]:
    """`*/` ends the comment in Go, C# and others, and what follows does not compile."""
    yield from (each for each in strings(document) if "*/" in each or "/*" in each)


def distinct_names(document: Document) -> Iterator[str]:
    """Components of the same name, of whatever kind, are one type in Go; so are names that differ by case only."""
    names = Counter(
        name.lower() for kind, all_ in document["components"].items() for name in all_ if kind != "securitySchemes"
    )
    yield from (name for name, count in names.items() if count > 1)
    for node in walk(document):
        if node.kind == "parameter" and node.value.get("name", "").lower() in TAKEN:
            yield f"{node.where}: {node.value['name']}"


def readable_operations(document: Document) -> Iterator[str]:
    """A method is named `tag.operationId`; one without `security` is an error of redocly, without words a warning."""
    ids = Counter(operation.get("operationId") for _, _, operation in operations(document))
    for path, method, operation in operations(document):
        missing = {"operationId", "tags", "summary", "description", "security"} - operation.keys()
        if missing or len(operation["tags"]) != 1 or ids[operation["operationId"]] > 1:
            yield f"{method} {path}: {missing or operation['operationId']}"
        elif not re.fullmatch(r"[a-z]+(?:[A-Z][a-z]+)*", operation["operationId"]):
            yield f"{method} {path}: {operation['operationId']}"


def sentences(document: Document) -> Iterator[str]:
    """A description is made of whole sentences; one that was cut by a comma ends without a full stop."""
    for node in walk(document):
        text = node.value.get("description") if isinstance(node.value, dict) else None
        if text is not None and not (re.match(r"[A-Z0-9`-]", text) and text.rstrip().endswith(".")):
            yield f"{node.where}: {text}"


RULES: tuple[Callable[[Document], Iterator[str]], ...] = (
    no_unknown_keyword,
    every_schema_is_an_object,
    one_type,
    plain_enums,
    portable_patterns,
    a_reference_is_alone,
    no_inline_object,
    doubles,
    concrete_media_types,
    json_first,
    one_result,
    closed_requests_open_answers,
    no_end_of_comment,
    distinct_names,
    readable_operations,
    sentences,
)


def schemas(document: Document) -> Iterator[Any]:
    """Every schema of the document that is an object."""
    yield from (node for node in walk(document) if node.kind == "schema" and isinstance(node.value, dict))


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        yield from ((path, method, item[method]) for method in METHODS if method in item)


def resolve(document: Document, node: dict[str, Any]) -> dict[str, Any]:
    found: Any = document
    for part in node["$ref"].removeprefix("#/").split("/") if "$ref" in node else ():
        found = found[part]
    return node if found is document else found
