"""How a client of this contract behaves where no schema can say it: numbers in a query, keys of requests."""

import os
from typing import Any

import schemathesis


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Python would write 0.0000001 as 1e-07, which is no duration here."""
    if not isinstance(query, dict):
        return query
    return {name: f"{value:.30f}" if isinstance(value, float) else value for name, value in query.items()}


@schemathesis.hook
def map_headers(context: Any, headers: Any) -> Any:
    """Each request means something new, so a good key is one that was never used."""
    key = headers.get("Idempotency-Key") if headers else None
    if not isinstance(key, str) or not 16 <= len(key) <= 200 or not key.isascii() or not key.isprintable():
        return headers
    return {**headers, "Idempotency-Key": key.strip() + os.urandom(8).hex()}
