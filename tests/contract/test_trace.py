"""Trace context is what W3C Trace Context says, and nothing else gets into a header."""

import pytest

from gateway.envelope.trace import is_traceparent, is_tracestate

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("text", [GOOD, "cc" + GOOD[2:], "cc" + GOOD[2:] + "-more"])
def test_traceparents_of_later_versions_are_read(text):
    """Version 00, and later ones with more behind."""
    assert is_traceparent(text)


@pytest.mark.parametrize(
    "text",
    ["", GOOD[:-1], GOOD + "-", GOOD.upper(), "ff" + GOOD[2:], GOOD.replace("4", "g"), GOOD + "\n", " " + GOOD]
    + [f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01"]
    + ["cc" + GOOD[2:] + "-\r\n", "cc" + GOOD[2:] + "-" + "x" * 600],
)
def test_what_is_no_traceparent(text):
    """All zeros, version ff, wrong lengths, anything that is not visible ASCII."""
    assert not is_traceparent(text)


@pytest.mark.parametrize("text", ["a=1", "a=1, b=2 ,c=x y", "1t@vendor=x", "a=1,,b=2", "a*/-_=~!"])
def test_tracestates_may_have_empty_members(text):
    """Lists of vendors with their values, empty members passed over."""
    assert is_tracestate(text)


@pytest.mark.parametrize(
    "text",
    ["", ",", "a", "a=", "=1", "A=1", "a=1,a=2", "a=b=c", "a=é", "a=1\r\nb: c", "a=" + "x" * 600, "1a=1"]
    + [",".join(f"a{number}=1" for number in range(33))],
)
def test_what_is_no_tracestate(text):
    """Repeated vendors, more than 32, more than 512 characters, bytes that a header may not hold."""
    assert not is_tracestate(text)
