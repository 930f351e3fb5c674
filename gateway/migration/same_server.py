"""Whether a destination is another way to the source: the same server, or a gateway in front of it.

Addresses do not tell: a server has several, and a gateway hides them. So a queue is made on the source for a moment,
and looked for at the destination. The source is the side that is left; the destination may be in use by others.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from typing import Final

from gateway.kestrel.address import Address
from gateway.migration.destination import Destination
from gateway.migration.kestrel_connection import KestrelConnection, KestrelFailed

_MARK: Final = "forward-"
"""Begins a name that is the same over HTTP. With a tenant or a namespace it is not, but then no job comes back."""
_EXPIRY_S: Final = 60
"""If the command is killed meanwhile, the mark goes away by itself."""


def is_mark(name: str) -> bool:
    """Whether it is the queue that another `forward` has made for a moment."""
    return re.fullmatch(f"{_MARK}[0-9a-f]{{32}}", name) is not None


def leads_to(source: Address, destination: Destination) -> bool:
    """Whether what is stored at the destination is on the source. False, too, if the source accepts no puts.

    Raises KestrelFailed, CallFailed.
    """
    mark = _MARK + uuid.uuid4().hex
    with KestrelConnection(source) as connection:
        stored, _ = connection.store(mark, [(b"is this the same server?", _EXPIRY_S)])
        if not stored:
            return False
        try:
            return destination.has(mark)
        finally:
            with contextlib.suppress(KestrelFailed):
                connection.drop(mark)
