"""openapi.yaml, read as it is written."""

from typing import Any

import pytest
import yaml

from tests.lab.yaml_text import SafeLoader


class Strict(SafeLoader):
    """A loader that refuses a mapping with the same key twice, of which others keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"{node.start_mark}: twice: {twice}")
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="session")
def document(root):
    return yaml.load((root / "openapi.yaml").read_text(), Strict)
