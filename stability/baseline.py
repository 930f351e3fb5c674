"""The contract that clients were promised: openapi.yaml as it was at the last tag, kept in baseline.yaml.

It is kept in a file because a clone need not have tags: `git clone --depth 1` fetches none.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
CONTRACT = ROOT / "openapi.yaml"
BASELINE = Path(__file__).with_name("baseline.yaml")


def version(contract: str) -> str:
    """What the contract calls its version."""
    return str(yaml.safe_load(contract)["info"]["version"])


def last_tag() -> str | None:
    """The newest version tag (v1.2.3) before HEAD; None where this clone has none, or is no clone."""
    return _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*") or None


def tagged(tag: str) -> str:
    """openapi.yaml as it is at the tag; empty if it is not there."""
    return _git("show", f"{tag}:openapi.yaml", strip=False)


def fault() -> str | None:
    """What is wrong with baseline.yaml. None if it is the contract of the last tag, or of a new version that is not
    tagged yet; None where there is no tag."""
    tag = last_tag()
    if tag is None:
        return None
    kept, promised = BASELINE.read_text(), tagged(tag)
    if kept == promised:
        return None
    if kept == CONTRACT.read_text() and version(kept) != version(promised):
        return None
    return f"{BASELINE.name} is not the contract of {tag}: restore it with git show {tag}:openapi.yaml >{BASELINE}"


def renew() -> str:
    """Makes today's contract the baseline. Returns the version that it has."""
    contract = CONTRACT.read_text()
    BASELINE.write_text(contract)
    return version(contract)


def _git(*arguments: str, strip: bool = True) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return ""
    answer = done.stdout if done.returncode == 0 else ""
    return answer.strip() if strip else answer
