"""docs/calls.md lists every request of the contract."""

import re
from pathlib import Path

from tests.lab.yaml_text import parse_yaml

METHODS = {"get", "post", "put", "delete", "options"}


def test_every_operation_has_a_row(root: Path) -> None:
    """The page names each operation of openapi.yaml by method and path, and no other."""
    paths = parse_yaml((root / "openapi.yaml").read_text())["paths"]
    operations = {f"{method.upper()} {path}" for path, item in paths.items() for method in METHODS & set(item)}
    text = (root / "docs" / "calls.md").read_text()
    named = set(re.findall(r"`((?:GET|POST|PUT|DELETE|OPTIONS) [^?`]+)", text))
    assert named == operations
