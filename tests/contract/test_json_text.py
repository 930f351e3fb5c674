"""JSON as bytes: the scan that builds nothing says of every text what parsers that build it said."""

import json
import time

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.envelope import json_text
from gateway.envelope.json_text import (
    MAX_BLANK,
    MAX_DEPTH,
    SMALL_BYTES,
    ElementTooLarge,
    NestedTooDeeply,
    TooManyMembers,
    check_json,
    elements,
    members,
)
from tests.lab.examples import examples

PAD = SMALL_BYTES + 1

STRICT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda each: 1 / 0, strict=True)


def is_json(text: bytes) -> bool:
    """What RFC 8259 says, by parsers that build objects."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):
            return False
        try:
            decoded = text.decode()
            if decoded.startswith("\ufeff"):
                return False
            STRICT.decode(decoded)
        except (ValueError, RecursionError, ZeroDivisionError):
            return False
    return True


def passes(text: bytes) -> bool:
    try:
        check_json(text)
    except ValueError:
        return False
    return True


def whole(text: bytes) -> dict[str, bytes] | None:
    """The members of an object, by a parser that builds it."""
    pairs: list[str] = []

    def note(found):
        pairs[:] = [name for name, _ in found]
        return dict(found)

    if not is_json(text):
        return None
    value = json.JSONDecoder(object_pairs_hook=note, parse_int=str, parse_float=str).decode(text.decode())
    if not isinstance(value, dict) or len(pairs) != len(set(pairs)):
        return None
    return value


NUMBERS = ["0", "-0", "1.10", "1e400", "-1E+5", "9" * 40, "01", "1.", "-", "+1", ".5", "1e", "NaN", "Infinity", "0x1"]
STRINGS = [r'"\ud800"', r'"\ud83d\ude00"', r'"\udc00x"', r'"\\ud800"', r'"\q"', r'"\u12G4"', '"\x01"', '"\t"', '"é"']
PIECES = st.sampled_from(
    [each.encode() for each in [*NUMBERS, *STRINGS, *'[]{},:" \t\n\r\x0c\xa0', "true", "nul", "null", '"a"', '"a":']]
    + [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf", b"\x00", b"\\", b"//", b"/**/"]
)
NAMES = st.sampled_from([b'"a"', b'"b"', rb'"\u0061"', rb'"\udc00"', b'""'])
VALUES = st.recursive(
    st.sampled_from([each.encode() for each in [*NUMBERS[:6], *STRINGS[:4], '"é"', "true", "null", '""']]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda each: b"[" + b" ,".join(each) + b"]"),
        st.lists(
            st.tuples(st.sampled_from([b'"a"', b'"b"', rb'"\u0061"', rb'"\udc00"', b'""']), inner), max_size=4
        ).map(lambda each: b"{" + b",\n".join(name + b" : " + value for name, value in each) + b"}"),
    ),
    max_leaves=12,
)
TEXTS = st.one_of(st.lists(PIECES, max_size=12).map(b"".join), VALUES, st.binary(max_size=30))


@settings(max_examples=examples(200))
@given(TEXTS, st.booleans())
@example(rb'"\ud800"', True)
@example(b"1],[2", True)
@example(b'"\xff"', True)
def test_the_scan_agrees_with_the_parsers(text, large):
    """On every text, small or large: blanks around it make it large and change nothing."""
    if large:
        text = b" " * PAD + text + b"\n"
    assert passes(text) is is_json(text)
    found, expected = members(text), whole(text)
    assert (found is None) is (expected is None)
    if found is not None:
        assert found.keys() == expected.keys()
        assert all(is_json(value) and value == value.strip() for value in found.values())


@settings(max_examples=examples(150))
@given(st.lists(st.one_of(VALUES, PIECES), max_size=5), st.sampled_from([b",", b" ,\n", b",,"]))
def test_elements_are_those_of_the_array(parts, comma):
    """Each by its own bytes; where the array is broken a ValueError, after those that come before."""
    text = b" [" + comma.join(parts) + b"] "
    try:
        found = list(elements(text, 1 << 20))
    except ValueError:
        assert not is_json(text)
        return
    if is_json(text):
        assert len(found) == len(json.JSONDecoder(parse_int=str, parse_float=str).decode(text.decode()))
    assert all(each and each == each.strip(b" \t\n\r") for each in found)
    assert passes(b"[" + b",".join(found) + b"]") is is_json(text)


@pytest.mark.parametrize("pad", [0, PAD])
@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_depth_is_bounded_on_every_version_of_python(pad, pair):
    """MAX_DEPTH levels are read, 1,100 are not, however deep the parser reads by itself."""
    opening = b"[" if pair == b"[]" else b'{"a":'
    for levels, good in ((MAX_DEPTH, True), (1100, False), (5000, False)):
        text = opening * levels + b"1" + pair[1:] * levels + b" " * pad
        if good:
            check_json(text)
            assert members(b'{"data":' + text + b"}") is not None
        else:
            with pytest.raises(NestedTooDeeply):
                check_json(text)
            assert members(b'{"data":' + text + b"}") is None


def test_where_it_is_broken_is_told():
    """Of a large text in bytes."""
    with pytest.raises(ValueError, match=f"^not UTF-8 at byte {PAD + 1}$"):
        check_json(b" " * PAD + b'"\xff"')
    with pytest.raises(ValueError, match=f"at byte {PAD + 3}$"):
        check_json(b" " * PAD + b"[1,]")
    with pytest.raises(ValueError, match=r"^it ends too early$"):
        check_json(b" " * PAD + b"[1")


def test_limits_are_said_before_the_rest_is_looked_at():
    """Members, the size of an element, white space."""
    assert members(b'{"a":1,"b":2}', 2) == {"a": b"1", "b": b"2"}
    with pytest.raises(TooManyMembers):
        members(b'{"a":1,"b":2,"c":', 2)
    with pytest.raises(ElementTooLarge) as caught:
        list(elements(b'[1,"xx",3]', 3))
    assert caught.value.place == 2
    assert list(elements(b'[1,"x",3]', 3)) == [b"1", b'"x"', b"3"]
    surrogate = rb'"\ud800%b"' % (b"x" * 20000)
    assert list(elements(b"[%b , 1]" % surrogate, len(surrogate))) == [surrogate, b"1"]
    with pytest.raises(ElementTooLarge):
        list(elements(b"[%b , 1]" % surrogate, len(surrogate) - 1))
    for blank in (b"[" + b" " * MAX_BLANK + b" 1]", b"[1," + b"\n" * MAX_BLANK + b"\n2]"):
        with pytest.raises(ValueError, match="white space"):
            list(elements(blank, 9))


def took_s(work, *args) -> float:
    """The CPU time of the shortest of three runs."""
    times = []
    for _ in range(3):
        began_s = time.thread_time()
        work(*args)
        times.append(time.thread_time() - began_s)
    return min(times)


@pytest.fixture(scope="module")
def copying_s() -> float:
    """What a parser that copies takes for a quarter of a MiB of empty arrays, in this very process."""
    return took_s(json.loads, b"[" + b",".join([b"[]"] * ((1 << 18) // 3)) + b"]")


@pytest.mark.parametrize("element", [b"[]", b"{}", b"1", b'""', rb'"\ud800"', b'{"a":[]}', b"[[[1]]]"])
def test_a_large_text_is_scanned_and_not_built(copying_s, element):
    """In a small part of the time that a copying parser takes for as many empty arrays."""
    count = (1 << 18) // (len(element) + 1)
    text = b"[" + b",".join([element] * count) + b"]"
    assert took_s(check_json, text) < copying_s / 3
    event = b'{"data":%b,"id":"1"}' % text
    assert took_s(members, event) < copying_s / 2


def test_the_parser_says_where_a_value_ends():
    """By its message alone: a release of msgspec that words it in another way must not pass unseen."""
    view = memoryview(b'  {"a":1} ,2')
    assert json_text._value_end(view, 0) == 10
    assert json_text._value_end(view, 11) == 12
