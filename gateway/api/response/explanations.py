"""What each problem code means, for `/problems/{code}`: the text of openapi.yaml with the errors that have the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import error_classes

_MEANING = re.compile(r"^- `([a-z-]+)`: (.+)$", re.MULTILINE)
"""One line in the description of `ProblemCode`."""


def explanations(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The JSON document that explains each code. `document` is openapi.yaml."""
    answers: dict[str, dict[int, dict[str, object]]] = {}
    for error in error_classes().values():
        answer = {"status": error.status, "title": error.title, "retryable": error.retryable}
        answers.setdefault(error.code, {}).setdefault(error.status, answer)
    return {
        code: orjson.dumps({"code": code, "meaning": meaning, "answers": list(answers[code].values())})
        for code, meaning in _MEANING.findall(document["components"]["schemas"]["ProblemCode"]["description"])
    }
