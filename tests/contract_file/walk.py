"""Every object of an OpenAPI document with its kind, and the keywords that each kind may have here.

The lists are shorter than OpenAPI's own: a keyword that a mainstream generator cannot read is not among them.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

METHODS: Final = ("get", "post", "put", "delete", "patch", "options", "head", "trace")
DATA: Final = "data"
"""A value that is no part of the description: an example, a default."""

# What each kind of object holds: keyword -> the kind of its value. "[kind]": a list of them; "{kind}": a map of them.
KINDS: Final[dict[str, dict[str, str]]] = {
    "document": {
        "openapi": DATA,
        "info": "info",
        "servers": "[server]",
        "tags": "[tag]",
        "paths": "{path}",
        "components": "components",
    },
    "info": {
        "title": DATA,
        "version": DATA,
        "summary": DATA,
        "description": DATA,
        "license": "license",
        "contact": "contact",
    },
    "license": {"name": DATA, "identifier": DATA},
    "contact": {"name": DATA},
    "server": {"url": DATA, "description": DATA},
    "tag": {"name": DATA, "description": DATA},
    "path": {"parameters": "[parameter]"} | dict.fromkeys(METHODS, "operation"),
    "operation": {
        "operationId": DATA,
        "security": DATA,
        "tags": DATA,
        "summary": DATA,
        "description": DATA,
        "deprecated": DATA,
        "parameters": "[parameter]",
        "x-parameters": "[parameter]",
        "x-any-query": DATA,
        "requestBody": "body",
        "responses": "{response}",
    },
    "parameter": {
        "$ref": DATA,
        "name": DATA,
        "in": DATA,
        "required": DATA,
        "description": DATA,
        "schema": "schema",
        "example": DATA,
        "x-former-name": DATA,
    },
    "body": {"required": DATA, "description": DATA, "content": "{media}"},
    "media": {"schema": "schema", "examples": "{example}"},
    "example": {"summary": DATA, "value": DATA},
    "response": {"$ref": DATA, "description": DATA, "headers": "{header}", "content": "{media}", "links": "{link}"},
    "header": {"$ref": DATA, "required": DATA, "description": DATA, "schema": "schema"},
    "link": {"operationId": DATA, "parameters": DATA, "description": DATA},
    "components": {
        "securitySchemes": DATA,
        "headers": "{header}",
        "parameters": "{parameter}",
        "schemas": "{schema}",
        "responses": "{response}",
    },
    "schema": {
        "$ref": DATA,
        "type": DATA,
        "format": DATA,
        "title": DATA,
        "description": DATA,
        "enum": DATA,
        "x-default": DATA,
        "minimum": DATA,
        "maximum": DATA,
        "minLength": DATA,
        "maxLength": DATA,
        "pattern": DATA,
        "items": "schema",
        "minItems": DATA,
        "maxItems": DATA,
        "required": DATA,
        "properties": "{schema}",
        "additionalProperties": "schema or bool",
        "x-former-name": DATA,
        "x-never-null": DATA,
    },
}


class Node(NamedTuple):
    """One object of the document. path: the keys that lead to it."""

    path: tuple[str, ...]
    kind: str
    value: Any

    @property
    def where(self) -> str:
        return "/".join(self.path)


def walk(value: Any, kind: str = "document", path: tuple[str, ...] = ()) -> Iterator[Node]:
    """The object and everything in it, except the members of a schema with an unknown keyword."""
    if kind == "schema or bool":
        kind = DATA if isinstance(value, bool) else "schema"
    if kind.startswith("["):
        for number, each in enumerate(value):
            yield from walk(each, kind[1:-1], (*path, str(number)))
    elif kind.startswith("{"):
        for name, each in value.items():
            yield from walk(each, kind[1:-1], (*path, name))
    elif kind != DATA:
        yield Node(path, kind, value)
        if isinstance(value, dict):
            for keyword, each in value.items():
                if keyword in KINDS[kind]:
                    yield from walk(each, KINDS[kind][keyword], (*path, keyword))


def strings(value: Any) -> Iterator[str]:
    """Every string in the value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from strings(name)
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
