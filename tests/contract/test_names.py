"""Names: what is legal, what is not, and the way back from a key."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.names import PATTERN, RESERVED, key_of, queue_of
from gateway.errors import InvalidName

LEGAL = ["a", "emails", "A-1", "a_b-c", "a-_-b", "0", "x" * 64, "a--b"]
ILLEGAL = ["", "-a", "a-", "_a", "a_", "a__b", "a-__b", "dead", "subdead", "x" * 65, "a b", "a/b", "a+b", "a+", "a.b"]
ILLEGAL += ["a~b", "..", "a\r\nflush_all", "a\n", "é", "😀", "a\x00", "٣"]


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_name_is_its_key(name):
    """Without tenants the key is the name, and the name comes back from it."""
    assert queue_of(key_of(name)) == name


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_name_goes_nowhere(name):
    """No byte of an illegal name gets to Kestrel, and no such key is shown as a queue."""
    with pytest.raises(InvalidName):
        key_of(name)
    assert queue_of(name) is None


@given(st.text(alphabet="aZ09_-", max_size=70))
def test_the_pattern_says_what_the_rules_say(name):
    """The pattern without look-around equals the rules as they are written down."""
    rules = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) and "__" not in name and not {name[0], name[-1]} & set("_-")
    assert (queue_of(name) is not None) == bool(rules)


def test_the_contract_document_has_the_same_pattern(root):
    """openapi.yaml and the code name the same pattern and the same reserved words."""
    schema = yaml.safe_load((root / "openapi.yaml").read_text())["components"]["schemas"]["QueueName"]
    assert schema["pattern"] == PATTERN
    assert set(schema["not"]["enum"]) == RESERVED


def test_a_hostile_name_costs_no_time():
    """A long run of dashes, which could make a careless pattern backtrack, is refused within a blink."""
    with pytest.raises(InvalidName):
        key_of("a" + "-_" * 31)
