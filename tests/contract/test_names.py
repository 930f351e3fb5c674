"""Names: what is legal, what is not, and the way to a key and back without collisions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.queues.catalog import Catalog
from gateway.errors import InvalidName
from gateway.names.namespace import MAX_KEY, PATTERN, RESERVED, Name, Namespace, check_name
from tests.lab.yaml_text import parse_yaml

LEGAL = ["a", "emails", "A-1", "a_b-c", "a-_-b", "0", "x" * 64, "a--b"]
ILLEGAL = ["", "-a", "a-", "_a", "a_", "a__b", "a-__b", "dead", "subdead", "x" * 65, "a b", "a/b", "a+b", "a+", "a.b"]
ILLEGAL += ["a~b", "..", "a\r\nflush_all", "a\n", "é", "😀", "a\x00", "٣"]

ENDS = st.sampled_from("aZ09")
NAMES = st.builds("{}{}{}".format, ENDS, st.text(alphabet="aZ0_-", max_size=6), ENDS).filter(
    lambda name: "__" not in name
)
PLAIN, PREFIXED, TENANTS, BOTH = Namespace(), Namespace("ns"), Namespace("", True), Namespace("ns", True)


def legal(name: str) -> bool:
    try:
        check_name(name, "queue")
    except InvalidName:
        return False
    return True


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_name_is_its_key(name):
    """Without tenants the key is the name, and the name comes back from it."""
    assert PLAIN.key(Name("", name)) == name
    assert PLAIN.read(name) == Name("", name)


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_name_goes_nowhere(name):
    """No byte of an illegal name gets to Kestrel, as queue, tenant or child."""
    assert not legal(name)
    for illegal in (Name("", name), Name("", "q", name), Name("", "q", name, dead=True)):
        with pytest.raises(InvalidName):
            PLAIN.key(illegal)
    with pytest.raises(InvalidName):
        TENANTS.key(Name(name, "q"))


@given(st.text(alphabet="aZ09_-", max_size=70))
def test_the_pattern_says_what_the_rules_say(name):
    """The pattern without look-around equals the rules as they are written down."""
    rules = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) and "__" not in name and not {name[0], name[-1]} & set("_-")
    assert legal(name) == bool(rules)


def names(space: Namespace) -> st.SearchStrategy[Name]:
    """Every kind of name of a namespace."""
    tenants = NAMES if space.tenanted else st.just("")
    return st.builds(Name, tenants, NAMES, st.none() | NAMES, st.booleans())


@pytest.mark.parametrize("space", [PLAIN, PREFIXED, TENANTS, BOTH])
def test_every_name_comes_back_from_its_key(space):
    """Queues, children and the dead letters of both: a key can be read back, in every kind of deployment."""

    @given(names(space))
    def back(name):
        key = space.key(name)
        assert space.read(key) == name
        assert len(key) <= MAX_KEY

    back()


@given(names(TENANTS), names(TENANTS))
def test_two_names_never_share_a_key(one, other):
    """No tenant, queue, child or dead letter can be spelt so that it falls together with another."""
    assert (TENANTS.key(one) == TENANTS.key(other)) == (one == other)


@given(st.text(alphabet="ab_+-", max_size=20))
def test_a_key_is_read_only_as_what_makes_it(key):
    """Any name on the server is either no queue of the gateway or exactly the key of the name it is read as."""
    for space in (PLAIN, PREFIXED, TENANTS, BOTH):
        name = space.read(key)
        assert name is None or space.key(name) == key


@pytest.mark.parametrize("space", [PLAIN, PREFIXED, TENANTS, BOTH])
def test_an_internal_queue_is_nobody_s(space):
    """No tenant, queue, child or dead letter has its key; lists and quotas do not see it, nor a child of it."""
    key = space.internal_key("delay-07")
    catalog = Catalog(space)
    for each in (key, key + "+child", key + "__dead"):
        assert space.is_internal(each)
        assert (space.read(each), space.tenant_of(each)) == (None, None)
        assert (catalog.owner_of(each), catalog.unreachable_for(each)) == (None, None)
    with pytest.raises(InvalidName):
        space.internal_key("a__b")

    @given(names(space))
    def no_name(name):
        assert not space.is_internal(space.key(name))

    no_name()


def test_internal_queues_of_two_namespaces_are_different():
    """A deployment does not take another one's internal queue for its own."""
    assert PREFIXED.internal_key("delay-07") == "ns___kestrel-gateway__delay-07"
    assert not PLAIN.is_internal(PREFIXED.internal_key("delay-07"))
    assert not PREFIXED.is_internal(PLAIN.internal_key("delay-07"))


def test_neighbours_that_look_alike_stay_apart():
    """The cases that a careless separator gets wrong."""
    for tenant, queue in [("a", "_b"), ("a_", "b"), ("a", "b__dead")]:
        with pytest.raises(InvalidName):
            TENANTS.key(Name(tenant, queue))
    dead_letters_of_q = PLAIN.key(Name("", "q", dead=True))
    assert dead_letters_of_q == "q__dead"
    with pytest.raises(InvalidName):
        TENANTS.key(Name("q", "dead"))
    assert TENANTS.read("q__dead") is None
    assert PLAIN.key(Name("", "q", "c", dead=True)) == "q__c__subdead"
    assert PLAIN.read("ns__q") is None
    assert PREFIXED.read("q") is None


def test_a_key_that_would_be_too_long_is_refused():
    """Each part may be legal and the whole too long for Kestrel's file names."""
    with pytest.raises(InvalidName, match="above the maximum of 200"):
        BOTH.key(Name("t" * 64, "q" * 64, "c" * 64, dead=True))


def test_the_contract_document_has_the_same_pattern(root):
    """openapi.yaml and the code name the same pattern and the same reserved words."""
    schema = parse_yaml((root / "openapi.yaml").read_text())["components"]["schemas"]["QueueName"]
    assert schema["pattern"] == PATTERN
    assert set(re.findall("`([a-z]+)`", schema["description"])) == RESERVED
