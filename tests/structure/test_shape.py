"""The shape of the sources: a class name is defined once, and no class has more than 25 methods."""

import pytest

from structure import classes, sources

PROGRAMS = ("bench", "chaos", "fuzz", "stability", "structure")
STILL_LARGE: set[str] = set()
"""Classes that are to be split. None may be added."""


@pytest.fixture(scope="module")
def found(root):
    """The classes of the gateway, its broker and the programs beside it."""
    return classes.shapes(sources.modules(root, "gateway", *PROGRAMS))


def test_a_class_name_is_defined_once(found):
    """A search for a name finds one class."""
    assert len(found) > 300
    assert classes.repeated(found) == {}


def test_no_class_is_too_large(found):
    """At most 25 methods."""
    assert [each for each in classes.large(found) if each.name not in STILL_LARGE] == []
