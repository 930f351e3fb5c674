"""What is wrong with a JSON body that violates its schema, in words that name the member and a likely fix. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import jsonschema_rs

from gateway.api.request import hints
from gateway.common.counted import counted
from gateway.names.namespace import FANOUT, PATTERN

MAX_LENGTH: Final = 300
"""The longest message, in characters."""
_MAX_NAME: Final = 80


def describe(error: jsonschema_rs.ValidationError, document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """One sentence. document: resolves the references of `schema`, which is the schema of the whole body."""
    if not error.instance_path and error.kind.name == "type":
        return object_expected(schema)
    where = ".".join(map(str, error.instance_path))
    text = _message(error, _at(document, schema, error.instance_path))
    return (f"{where}: {text}" if where else text)[:MAX_LENGTH]


def object_expected(schema: Mapping[str, Any]) -> str:
    """The message for an absent body or one that is not an object: its required or most important members."""
    names = list(schema.get("required", ())) or list(schema["properties"])
    last = " and " if schema.get("required") else " or "
    listed = last.join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"the body must be a JSON object with {listed}"


def _message(error: jsonschema_rs.ValidationError, schema: Mapping[str, Any]) -> str:
    kind = error.kind.as_dict()
    known = list(schema.get("properties", ()))
    match error.kind.name:
        case "additionalProperties":
            name = str(kind["unexpected"][0])
            hint = hints.member(name, known)
            return (
                f"unknown member {name[:_MAX_NAME]!r}; "
                f"{hint + ' Allowed' if hint else 'allowed'} are {', '.join(known)}"
            )
        case "maxItems":
            size = counted(len(cast("list[Any]", error.instance)), "item")
            return f"the list has {size}, which is above the maximum of {kind['limit']}"
        case "required":
            return f"{kind['property']} is missing"
        case "pattern" if "title" in schema:
            shown = repr(str(error.instance)[:_MAX_NAME])
            if schema["pattern"] == PATTERN and _is_subscription(str(error.instance)):
                return f"{shown} is a subscription, which gets only the jobs of its queue; name a queue"
            return f"{shown} is not {schema['title']}"
        case "maxLength":
            size = counted(len(str(error.instance)), "character")
            return f"the value has {size}, which is above the maximum of {kind['limit']}"
        case _:
            return error.message


def _is_subscription(name: str) -> bool:
    parts = name.split(FANOUT)
    return len(parts) == 2 and all(re.match(PATTERN, part) for part in parts)


def _at(document: Mapping[str, Any], schema: Mapping[str, Any], path: Sequence[str | int]) -> Mapping[str, Any]:
    """The schema of the value at the path."""
    for part in path:
        schema = resolve(document, schema["items"] if isinstance(part, int) else schema["properties"][part])
    return schema


def resolve(document: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node itself, or what it refers to."""
    if "$ref" not in node:
        return node
    found: Any = document
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Mapping[str, Any] = found
    return resolved
