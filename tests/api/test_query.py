"""A query that is read in parts has the same values, or the same error, as one that is read whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.request.parameters import Query
from gateway.errors import InvalidParameter

PARAMETERS: list[Mapping[str, Any]] = [
    {"name": "timeout", "schema": {"type": "number", "minimum": 0, "maximum": 60, "x-default": 20.0}},
    {"name": "ack", "schema": {"type": "string", "pattern": "^[a-z ]{1,64}$"}},
    {"name": "max", "x-former-name": "limit", "schema": {"type": "integer", "minimum": 1, "maximum": 9}},
    {"name": "queue", "schema": {"type": "array", "items": {"type": "string"}, "maxItems": 2}},
]
PAIRS = (
    b"timeout=1", b"timeout=61", b"ack=a", b"ack=a+b", b"ack=%61", b"ack=" + b"a" * 60, b"ack=", b"max=2", b"limit=2",
    b"limit=3", b"queue=q", b"queue=" + b"r" * 50, b"other=1", b"", b"ack",
)  # fmt: skip
QUERIES = st.lists(st.sampled_from(PAIRS), max_size=4).map(b"&".join)


def read(query: Query, raw: bytes) -> object:
    """The values and which of them are in the query, or the error's text."""
    try:
        values = query.parse(raw)
    except InvalidParameter as error:
        return error.detail
    return dict(values), set(values.given)


@given(st.lists(QUERIES, max_size=6))
def test_earlier_queries_change_nothing(queries: list[bytes]) -> None:
    """Whatever a Query has remembered."""
    used = Query(PARAMETERS)
    for raw in queries:
        whole = Query(PARAMETERS)
        whole._and_one_more = lambda _: None  # type: ignore[assignment, method-assign]
        assert read(used, raw) == read(whole, raw)


def test_a_known_query_with_a_lease_behind_it_is_not_read_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each poll of a consumer has another lease in it."""
    query = Query(PARAMETERS)
    query.parse(b"timeout=1")
    monkeypatch.setattr(query, "_parse", lambda _: None)
    assert read(query, b"timeout=1&ack=" + b"a" * 60) == (
        {"timeout": 1.0, "ack": "a" * 60, "max": None, "queue": ()},
        {"timeout", "ack"},
    )
