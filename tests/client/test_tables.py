"""Values in tables are for people."""

import pytest

from gateway.client import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (False, "no"), (None, "-"), (1.25, "1.2"), (3, "3"), ("a\tb", "a\N{REPLACEMENT CHARACTER}b")],
)
def test_a_value_is_no_literal_of_python(value: object, text: str, capsys: pytest.CaptureFixture[str]):
    """Yes and no, a dash for nothing, one digit behind the point."""
    tables.show(["VALUE"], [[value]])
    assert capsys.readouterr().out == f"VALUE\n{text}\n"
