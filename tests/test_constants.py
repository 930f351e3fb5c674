"""Every timing constant says where it comes from: what depends on it, what was measured, or which source it has."""

import ast
import re
from pathlib import Path

from gateway.settings import SHORTEST_LEASE_S
from tests.lab.yaml_text import parse_yaml

TIMING = re.compile(r"\b_?[A-Z][A-Z0-9_]*_(S|MS)\b")
BLOCK = re.compile(r"^(?:@|class |(?:async )?def ).*\n(?:(?:[ \t)].*)?\n)*", re.MULTILINE)
"""A class or function of a module, with the empty lines behind it. It has no constants of the module, and parsing is
most of the work."""


def timing_constants(path: Path) -> dict[str, str]:
    """Each constant of a module that is a number of seconds, and the comment beside it; empty where there is none.

    A string below a group of constants, a comment above it or behind it, or a sentence of the module's opening.
    """
    text = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), path.read_text())
    if not TIMING.search(text):
        return {}
    lines = text.splitlines()
    tree = ast.parse(text)
    opening = ast.get_docstring(tree) or ""
    found: dict[str, str] = {}
    for place, node in enumerate(tree.body):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        if not any(
            isinstance(each, ast.Constant) and isinstance(each.value, int | float) for each in ast.walk(node.value)
        ):
            continue
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
        for name in names:
            if TIMING.fullmatch(name):
                found[name] = _comment(tree.body, place, lines) or ("opening" if name in opening else "")
    return found


def _comment(body: list[ast.stmt], place: int, lines: list[str]) -> str:
    """What is said of the constant at that place, or of the group of constants that it is in."""
    first = last = place
    while first and isinstance(body[first - 1], ast.Assign | ast.AnnAssign) and _touch(body[first - 1], body[first]):
        first -= 1
    while (
        last + 1 < len(body)
        and isinstance(body[last + 1], ast.Assign | ast.AnnAssign)
        and _touch(body[last], body[last + 1])
    ):
        last += 1
    after = body[last + 1] if last + 1 < len(body) else None
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and _touch(body[last], after):
        return str(after.value.value)
    above = lines[body[first].lineno - 2]
    beside = lines[body[place].lineno - 1].partition("  # ")[2]
    return beside or (above if above.startswith("# ") else "")


def _touch(one: ast.stmt, other: ast.stmt) -> bool:
    """Whether nothing but a comment is between the two."""
    return other.lineno - (one.end_lineno or one.lineno) <= 1


def test_every_timing_constant_says_why(root: Path) -> None:
    """Without a reason nobody can judge whether a number of seconds may be changed."""
    found = {
        f"{path.relative_to(root)}: {name}": comment
        for path in sorted((root / "gateway").rglob("*.py"))
        for name, comment in timing_constants(path).items()
    }
    assert len(found) > 50
    assert [name for name, comment in found.items() if not comment] == []


def test_the_shortest_lease_is_the_contract_s(root: Path) -> None:
    """`lease_seconds` has the minimum that settings are checked with."""
    document = parse_yaml((root / "openapi.yaml").read_text())
    assert document["components"]["parameters"]["LeaseSeconds"]["schema"]["minimum"] == SHORTEST_LEASE_S


def test_a_constant_without_a_comment_is_found(tmp_path: Path) -> None:
    """The check can fail."""
    path = tmp_path / "module.py"
    path.write_text(
        '"""Opening: LATE_S."""\n\nA_S = 1.0\n\nB_S = 2\n"""Why."""\n\n# Why.\nC_S = 3\nD_S = 4\n\nLATE_S = 1\n'
    )
    assert {name for name, comment in timing_constants(path).items() if not comment} == {"A_S"}
