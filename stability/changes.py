"""What differs between two contracts, and which of it breaks a client. oasdiff finds the differences."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stability import contract

INSTALLED = Path.home() / ".cache" / "kestrel-gateway" / "oasdiff" / "oasdiff"
LIMIT_S = 60

# oasdiff calls these informational. Generated clients name methods by operationId, classes by tag and schema, and have
# what a response may hold as their fields and cases: without them they do not compile.
BREAKING_TOO = {
    "api-operation-id-removed",
    "api-schema-removed",
    "api-tag-removed",
    "optional-response-header-removed",
    "request-parameter-default-value-changed",
    "request-property-default-value-changed",
    "response-mediatype-enum-value-removed",
    "response-non-success-status-removed",
    "response-optional-property-removed",
    "response-property-enum-value-removed",
}
VALUE_REMOVED = "documented-value-removed"  # a rule of our own
# Clients are told to expect codes that they do not know.
_NEW_CODE = re.compile(r"enum value to the `(?:\S+/)?code` response property")
_STATUS = re.compile(r",? (?:for|from|with) (?:the )?(?:response )?(?:with the )?status `\d+`")
_SHOWN = 3


class OasdiffMissingError(Exception):
    """oasdiff is not installed."""


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One breaking change. rule: oasdiff's name for its kind. operations: such as `GET /queues`; empty: everywhere."""

    rule: str
    text: str
    operations: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.operations[:_SHOWN])
        if len(self.operations) > _SHOWN:
            where += f" and {len(self.operations) - _SHOWN} more"
        return f"{self.text} ({where or 'everywhere'}) [{self.rule}]"


def breaking(base: Path, revision: Path) -> list[Change]:
    """What the revision breaks for clients of the base, sorted; the same change at many places is one.

    Raises OasdiffMissingError, and ContractError for a file that cannot be read."""
    promised, offered = contract.read(base), contract.read(revision)
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for found in _differences(promised, offered):
        if _breaks(found):
            # A change of a shared schema is reported for each status that has it.
            text = found["text"] if "status" in found["id"] else _STATUS.sub("", found["text"])
            places[found["id"], text] |= {f"{found['operation']} {found['path']}"} if found.get("path") else set()
    for schema, value in contract.listed(promised) - contract.listed(offered):
        places[VALUE_REMOVED, f"removed the value `{value}` of the schema `{schema}`"] = set()
    return sorted(Change(rule, text, tuple(sorted(where))) for (rule, text), where in places.items())


def _breaks(found: dict[str, Any]) -> bool:
    if found["id"] == "response-property-enum-value-added" and _NEW_CODE.search(str(found["text"])):
        return False
    return found["level"] in {2, 3} or found["id"] in BREAKING_TOO  # 2: warning, 3: error


def _differences(base: dict[str, Any], revision: dict[str, Any]) -> Iterable[dict[str, Any]]:
    options = ["--format", "json", "--flatten-params", "--flatten-allof", "--allow-external-refs=false"]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("base.json", "revision.json")]
        for file, document in zip(files, (base, revision), strict=True):
            file.write_text(json.dumps(document, default=str))
        command = [oasdiff(), "changelog", *map(str, files), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise contract.ContractError(done.stderr.strip() or done.stdout.strip())
    return json.loads(done.stdout or "[]") or []


def oasdiff() -> str:
    """The path of the program. Raises OasdiffMissingError."""
    found = os.environ.get("OASDIFF") or shutil.which("oasdiff") or (str(INSTALLED) if INSTALLED.exists() else "")
    if not found:
        raise OasdiffMissingError("oasdiff is not installed: run .ci/install/oasdiff.sh, which needs Go")
    return found
