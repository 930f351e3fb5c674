"""The shape of the sources: a class name is defined once, and no class has more than 25 methods."""

import ast
import re
from collections import Counter

import pytest

from structure import classes
from structure.sources import Module

PROGRAMS = ("bench", "chaos", "fuzz", "stability", "structure")
STILL_LARGE: set[str] = set()
"""Classes that are to be split. None may be added."""
CLASS = re.compile(r"^ *class (\w+)", re.MULTILINE)
ALIAS = re.compile(r"^([A-Z]\w*[a-z]\w*)(?:: TypeAlias)? = ", re.MULTILINE)
FUNCTION = re.compile(r"^ +(?:async )?def ", re.MULTILINE)
"""One inside something. To parse all modules takes two seconds; only those with many such functions are parsed."""


@pytest.fixture(scope="module")
def texts(root):
    """The modules of the gateway, its broker, the programs beside it and what tests share with these."""
    paths = [path for package in ("gateway", *PROGRAMS, "tests/lab") for path in (root / package).rglob("*.py")]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


def test_a_class_name_is_defined_once(texts):
    """A search for a name finds one class."""
    names = Counter(name for text in texts.values() for name in CLASS.findall(text))
    assert len(names) > 300
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_an_alias_of_a_type_has_a_name_of_its_own(texts):
    """As for classes, outside the broker."""
    rest = [text for file, text in texts.items() if not file.startswith("gateway/broker/")]
    aliases = Counter(name for text in rest for name in ALIAS.findall(text))
    classes = {name for text in rest for name in CLASS.findall(text)}
    assert len(aliases) > 50
    assert {name for name, count in aliases.items() if count > 1} | aliases.keys() & classes == set()


def test_no_class_is_too_large(texts):
    """At most 25 methods."""
    long = [
        Module(file, ast.parse(text))
        for file, text in texts.items()
        if len(FUNCTION.findall(text)) > classes.MOST_METHODS
    ]
    assert len(long) > 10
    assert [each for each in classes.large(classes.shapes(long)) if each.name not in STILL_LARGE] == []
