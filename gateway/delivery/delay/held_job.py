"""A job as it is stored on a holding queue: a line that says where it goes and when, then the bytes of its item. Pure.

    held1 {"tenant":"acme","queue":"emails","due":1798761600000,"until":1798761592000,"by":"1f..."}
    {"specversion":"1.0", ...

`due` and `until` are Unix times in milliseconds. `expires` is present if the job expires, `generation` if it belongs to
one subscription.
The item's bytes are not changed, so a raw item is held like any other one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from gateway.delivery.delay.levels import Hop

_MARK: Final = b"held1 "
_LONGEST_LINE: Final = 1024


@dataclass(frozen=True, slots=True)
class HeldJob:
    """tenant, queue: where the job goes. due_ms: when. expires_s: wall time; None: never. data: the item.

    until_ms: when it may leave its present holding queue. by: the worker that put it there; empty: not known.
    generation: of the subscription that it belongs to, see DeletedSubscriptions; None: not known, or no subscription.
    """

    tenant: str
    queue: str
    due_ms: int
    data: bytes
    expires_s: float | None = None
    until_ms: int = 0
    by: str = ""
    generation: int | None = None

    def at(self, hop: Hop, by: str) -> HeldJob:
        """The job as the worker `by` puts it on its next holding queue."""
        return replace(self, until_ms=hop.until_ms, by=by)

    def packed(self) -> bytes:
        """The item for the holding queue."""
        line: dict[str, object] = {
            "tenant": self.tenant,
            "queue": self.queue,
            "due": self.due_ms,
            "until": self.until_ms,
            "by": self.by,
        }
        if self.expires_s is not None:
            line["expires"] = self.expires_s
        if self.generation is not None:
            line["generation"] = self.generation
        return b"%b%b\n%b" % (_MARK, orjson.dumps(line), self.data)


def unpacked(item: bytes) -> HeldJob | None:
    """The job in an item of a holding queue; None if no gateway has written the item."""
    end = item.find(b"\n", 0, _LONGEST_LINE)
    if end < 0 or not item.startswith(_MARK):
        return None
    try:
        line: dict[str, Any] = orjson.loads(item[len(_MARK) : end])
        expires, generation = line.get("expires"), line.get("generation")
        return HeldJob(
            str(line["tenant"]),
            str(line["queue"]),
            int(line["due"]),
            item[end + 1 :],
            float(expires) if expires is not None else None,
            int(line["until"]),
            str(line.get("by", "")),
            int(generation) if generation is not None else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
