"""openapi.yaml as the program uses it: what an operation's query and body may contain. Knows no routes.

The document is written by hand. The operator's settings (limits, keys) are inserted when it is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Final

import jsonschema_rs
import orjson
import yaml

from gateway.api.request.parameters import Query, Values
from gateway.api.request.violations import describe, object_expected, resolve
from gateway.api.response.explanations import explanations
from gateway.config.keys import Scope
from gateway.envelope.json_text import BOM, NestedTooDeeply, RepeatedMember, check_unique, has_more_values, load_lenient
from gateway.errors import InvalidBody
from gateway.settings import Settings

MAX_VALUES: Final = 20_000
"""Limit for a body without jobs. Ten thousand acks, a thousand nacks and a thousand rejects have fewer; validating many
takes long."""
_TOO_DEEP: Final = "the body is nested too deeply; no member of this request has so many levels"
_BLANK: Final = b" \t\r\n"
_METHODS = ("get", "post", "put", "delete", "options")


class OperationSpec:
    """What one operation accepts. scopes: the caller needs one of them; empty: not even a key. of_tenant: whether it
    has the parameter `tenant`."""

    def __init__(self, document: Mapping[str, Any], operation: Mapping[str, Any]) -> None:
        self.id: str = operation["operationId"]
        self.scopes = _scopes(operation)
        described = [*operation.get("parameters", ()), *operation.get("x-parameters", ())]
        parameters = [resolve(document, each) for each in described]
        self._any_query: bool = operation.get("x-any-query", False)
        self.of_tenant = any(each["in"] == "query" and each["name"] == "tenant" for each in parameters)
        self._query = Query([_plain(document, each) for each in parameters if each["in"] == "query"])
        body = operation.get("requestBody", {})
        schema = body.get("content", {}).get("application/json", {}).get("schema")
        self._body_required: bool = body.get("required", False)
        self._document = document
        self._schema = resolve(document, schema or {})
        self._former_names = _former_names(self._schema)
        self._never_null = _never_null(self._schema)
        self._body_schema = schema

    @functools.cached_property
    def _validator(self) -> jsonschema_rs.Draft202012Validator:
        """Made when the first body comes, so that a worker starts sooner."""
        return jsonschema_rs.Draft202012Validator({**self._body_schema, "components": self._document["components"]})

    def query(self, raw: bytes) -> Values:
        """Every parameter's value, defaults included. Raises InvalidParameter."""
        return self._query.parse(b"" if self._any_query else raw)

    def body(self, raw: bytes) -> dict[str, Any]:
        """The JSON object in the body, without members that are null. Empty if the body is absent or null, where that
        is allowed. White space alone counts as an absent body.

        Raises:
            InvalidBody: it is not JSON, violates the schema, has a member twice, or has a null where `x-never-null`
            refuses it.
        """
        if not raw.removeprefix(BOM).strip(_BLANK):
            return self._absent()
        if has_more_values(raw, MAX_VALUES):
            raise InvalidBody(f"the body has more than the maximum of {MAX_VALUES} JSON values")
        try:
            given = load_lenient(raw)
            check_unique(raw)
        except NestedTooDeeply as exc:
            raise InvalidBody(_TOO_DEEP) from exc
        except RepeatedMember as exc:
            raise InvalidBody(str(exc)) from exc
        except ValueError as exc:
            raise InvalidBody(f"the body is not JSON: {exc}") from exc
        if self._never_null and isinstance(given, dict):
            self._check_nulls(given)
        value = _without_nulls(given)
        if value is None:
            return self._absent()
        if self._former_names and isinstance(value, dict):
            self._rename(value)
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            raise InvalidBody(describe(error, self._document, self._schema)) from error
        except ValueError as error:  # jsonschema_rs looks at 255 levels
            raise InvalidBody(_TOO_DEEP) from error
        checked: dict[str, Any] = value
        return checked

    def _absent(self) -> dict[str, Any]:
        if self._body_required:
            raise InvalidBody(object_expected(self._schema))
        return {}

    def _check_nulls(self, given: Mapping[str, Any]) -> None:
        for name in self._never_null:
            if given.get(name, "") is None:
                raise InvalidBody(f"{name}: null is not accepted; send a value, or leave {name} out")

    def _rename(self, value: dict[str, Any]) -> None:
        """Renames members with a former name to their current name. Raises InvalidBody if both are given and differ."""
        for former, current in self._former_names.items():
            if former in value:
                given = value.pop(former)
                if value.setdefault(current, given) != given:
                    raise InvalidBody(f"{former} and {current} differ; send only {current}")


class Specification:
    """The contract of this deployment: openapi.yaml with the operator's settings.

    json: the document as it is served. explanations: the meaning of each problem code, as JSON.
    """

    def __init__(self, settings: Settings) -> None:
        document: dict[str, Any] = orjson.loads(_as_written())
        _set_limits(document, settings)
        if settings.root_path:
            document["servers"] = [{"url": settings.root_path}]
        operations = [
            each for path in document["paths"].values() for method, each in path.items() if method in _METHODS
        ]
        self._operations = {each["operationId"]: OperationSpec(document, each) for each in operations}
        if settings.keys is None:
            _drop_security(document, operations)
        self.explanations = explanations(document)
        self.json = orjson.dumps(document)
        self._yaml: bytes | None = None

    def as_yaml(self) -> bytes:
        """The document as YAML. The first call takes a tenth of a second: call it in a thread."""
        if self._yaml is None:
            dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
            self._yaml = yaml.dump(orjson.loads(self.json), Dumper=dumper, sort_keys=False).encode()
        return self._yaml

    def operation(self, operation_id: str) -> OperationSpec:
        return self._operations[operation_id]

    def allowed(self, scopes: frozenset[Scope]) -> list[str]:
        """The ids of the operations that a caller with these scopes may use."""
        return [each.id for each in self._operations.values() if not each.scopes or not scopes.isdisjoint(each.scopes)]


@functools.cache
def _as_written() -> bytes:
    """openapi.yaml as JSON. Reading the YAML takes a tenth of a second, so a process does it once."""
    source = files("gateway.api").joinpath("openapi.yaml").read_bytes()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return orjson.dumps(yaml.load(source, loader))  # noqa: S506 (both loaders are the safe ones)


def _set_limits(document: dict[str, Any], settings: Settings) -> None:
    longest_lease_s = longest_lease(settings)
    timeout = document["components"]["parameters"]["Timeout"]["schema"]
    timeout |= {"maximum": _number(settings.max_timeout_s), "x-default": _number(settings.default_timeout_s)}
    document["components"]["parameters"]["LeaseSeconds"]["schema"]["maximum"] = _number(longest_lease_s)
    parameters = document["components"]["parameters"]
    window = parameters["Window"]["schema"]
    window |= {"maximum": settings.max_stream_window, "x-default": min(window["x-default"], settings.max_stream_window)}
    parameters["Lifetime"]["schema"]["maximum"] = _number(settings.max_stream_s)
    schemas = document["components"]["schemas"]
    for request in ("LeaseRequest", "NextRequest"):
        schemas[request]["properties"]["timeout"] |= {each: timeout[each] for each in ("maximum", "x-default")}
        schemas[request]["properties"]["lease_seconds"]["maximum"] = _number(longest_lease_s)
    schemas["ExtendRequest"]["properties"]["lease_seconds"]["maximum"] = _number(longest_lease_s)


def _drop_security(document: dict[str, Any], operations: Iterable[dict[str, Any]]) -> None:
    """Without keys a caller needs none, so the served contract has no security requirements."""
    del document["components"]["securitySchemes"]
    for operation in operations:
        operation["security"] = []


def longest_lease(settings: Settings) -> float:
    """The longest lease in seconds: below Kestrel's limit for open reads, so that an answered ack is certain."""
    if not settings.kestrel_open_timeout_s:
        return settings.max_lease_s
    return min(settings.max_lease_s, settings.kestrel_open_timeout_s - settings.kestrel_command_timeout_s)


def default_lease(settings: Settings) -> float:
    """The length of a lease in seconds if neither the request nor the queue's policy gives one."""
    return min(settings.default_lease_s, longest_lease(settings))


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _without_nulls(value: Any, levels: int = 4) -> Any:
    """The JSON value without members that are null: serializers in many languages write absent members as null.

    levels: how deep to look. No valid body is deeper; an invalid one may be as deep as Python's stack allows.
    """
    if isinstance(value, dict) and levels:
        return {name: _without_nulls(each, levels - 1) for name, each in value.items() if each is not None}
    if isinstance(value, list) and levels:
        return [_without_nulls(each, levels - 1) for each in value]
    return value


def _former_names(schema: Mapping[str, Any]) -> Mapping[str, str]:
    """The current name of each member that had another name (`x-former-name`)."""
    members = schema.get("properties", {}).items()
    return {each["x-former-name"]: name for name, each in members if "x-former-name" in each}


def _never_null(schema: Mapping[str, Any]) -> list[str]:
    """The members that must not be null (`x-never-null`): without them the request does more."""
    return [name for name, each in schema.get("properties", {}).items() if each.get("x-never-null")]


def _plain(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameter with its schema resolved."""
    schema = resolve(document, parameter["schema"])
    if "items" in schema:
        schema = {**schema, "items": resolve(document, schema["items"])}
    return {**parameter, "schema": schema}


def _scopes(operation: Mapping[str, Any]) -> tuple[Scope, ...]:
    """The scopes of an operation, from `security: [{key: [observe]}, {key: [admin]}]`."""
    requirements = operation.get("security", ())
    return tuple(Scope(scopes[0]) for requirement in requirements for scopes in requirement.values())
