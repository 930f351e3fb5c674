"""A contract as it is compared: what it says in ways of its own, in OpenAPI's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
_LISTED = re.compile(r"^- `([^`]+)`: ", re.MULTILINE)


class ContractError(Exception):
    """A file that cannot be read as a contract."""


def read(file: Path) -> dict[str, Any]:
    """The contract of a file. Parameters that are kept from generators (`x-parameters`) are among the others.

    Raises ContractError for what is not YAML, or not an object."""
    try:
        contract = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as exc:
        raise ContractError(f"{file}: {exc}") from exc
    if not isinstance(contract, dict):
        raise ContractError(f"{file} is not a contract: it holds no object")
    for item in contract.get("paths", {}).values():
        for operation in (item[method] for method in METHODS & item.keys()):
            if hidden := operation.pop("x-parameters", []):
                operation["parameters"] = operation.get("parameters", []) + hidden
    return contract


def listed(contract: dict[str, Any]) -> set[tuple[str, str]]:
    """The values that the schemas list in their descriptions, with the schema: lines such as `- `up`: It runs.`.

    A schema does so in place of an enum, where generated clients must accept values that they do not know."""
    schemas = contract.get("components", {}).get("schemas", {})
    return {(name, value) for name in schemas for value in _LISTED.findall(schemas[name].get("description", ""))}
