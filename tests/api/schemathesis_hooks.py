"""How a client of this contract writes numbers in a query: plain digits, as the document's description says."""

from typing import Any

import schemathesis


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Python would write 0.0000001 as 1e-07, which is no duration here."""
    if not isinstance(query, dict):
        return query
    return {name: f"{value:.30f}" if isinstance(value, float) else value for name, value in query.items()}
