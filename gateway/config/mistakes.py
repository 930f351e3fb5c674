"""Every mistake in the files of keys and policies, together: the names in one depend on the other."""

from __future__ import annotations

from pathlib import Path

from gateway.config import keys as key_file
from gateway.config import policies
from gateway.config.toml_file import Mistake, MistakesError
from gateway.names.namespace import Namespace


def mistakes(queues: Path | None, keys: Path | None, namespace: str) -> list[Mistake]:
    """The mistakes of both files, those of the keys first."""
    found: list[Mistake] = []
    tenanted = None
    if keys is not None:
        try:
            tenanted = key_file.load(keys).tenanted
        except MistakesError as exc:
            found += exc.mistakes
    try:
        policies.load(queues, Namespace(namespace, bool(tenanted)))
    except MistakesError as exc:
        found += exc.mistakes
    return found
