"""How a client of this contract behaves where no schema can say it: numbers in a query, keys of requests."""

import os
import re
from typing import Any

import schemathesis


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Python would write 0.0000001 as 1e-07, which is no duration here."""
    if not isinstance(query, dict):
        return query
    return {name: f"{value:.30f}" if isinstance(value, float) else value for name, value in query.items()}


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """A value that a URL cannot say is not sent at all, and what is sent then is not what was meant to be wrong."""
    return not isinstance(query, dict) or not any(value is None or value in ([], {}) for value in query.values())


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A good Idempotency-Key was never used, a good cursor was given out; and no server is taken out."""
    if case.query and re.fullmatch("[A-Za-z0-9_-]{1,3600}", str(case.query.get("cursor", ""))):
        case.query = {name: value for name, value in case.query.items() if name != "cursor"}
    key = case.headers.get("Idempotency-Key") if case.headers else None
    if isinstance(key, str) and re.fullmatch("[!#-~](?:[ -~]{0,253}[!-~])?", key):
        case.headers["Idempotency-Key"] = key[:200].rstrip() + os.urandom(8).hex()
    elif isinstance(key, str) and re.fullmatch(r'"(?:[ !#-\[\]-~]|\\["\\]){1,255}"', key):
        case.headers["Idempotency-Key"] = f'"{os.urandom(8).hex()}"'

    # Whatever is stored after the only server was taken out would be refused.
    if isinstance(case.body, dict) and case.body.get("status") in ("readonly", "quiescent"):
        case.body = case.body | {"status": "up"}
