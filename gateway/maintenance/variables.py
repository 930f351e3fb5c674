"""Finds variables of the environment that look like settings and are not. Knows no settings itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "KESTREL_GATEWAY_"
# Kubernetes sets these for a Service named kestrel-gateway; PORT has the same name as the setting.
# Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES: Final = re.compile(r"SERVICE_(HOST|PORT(_.*)?)|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?")
_URL: Final = re.compile(r"(tcp|udp)://")
# Read by the project's own tests only.
_OF_TESTS: Final = PREFIX + "TEST_"


def warnings(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """One line per variable that begins as settings do and is not in `known`, with the nearest name, if one is near."""
    endings = [each.removeprefix(PREFIX) for each in known]
    found = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.startswith(_OF_TESTS):
            continue
        ending = name.removeprefix(PREFIX)
        if _OF_KUBERNETES.fullmatch(ending) and (name not in known or _URL.match(environ[name])):
            if ending == "PORT":
                found.append(
                    f"{name} is {environ[name]!r}, which Kubernetes sets for a Service named kestrel-gateway; "
                    "set enableServiceLinks: false in the pod, or rename the Service"
                )
        elif name not in known:
            near = difflib.get_close_matches(ending, endings, n=1, cutoff=0.75)
            advice = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            found.append(f"{name} is not a setting and has no effect{advice}")
    return found
