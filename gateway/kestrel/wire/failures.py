"""Translates foreign errors into the gateway's, once. Pure: returns the error; the caller raises it `from` the
cause."""

from __future__ import annotations

import os
from typing import TypeVar

from pymemcache.exceptions import MemcacheIllegalInputError, MemcacheServerError, MemcacheUnknownCommandError

from gateway.common import net
from gateway.errors import BackendRefused, BackendUnavailable, GatewayError, LeaseLost, OutcomeUnknown, Unavailable
from gateway.kestrel.address import Address
from gateway.kestrel.wire.connection import ConnectionLostError

_Error = TypeVar("_Error", bound=Unavailable)
LOST = "the connection that held the job was lost; the job is back on its queue"


def not_asked(error: BaseException, address: Address) -> BackendUnavailable:
    """For failures without effect: connects, questions, takes (an open read goes back by itself)."""
    if isinstance(error, BackendUnavailable):
        return error
    if isinstance(error, MemcacheServerError):
        return BackendRefused(f"{address.marked} refuses: {_text(error)}")
    if isinstance(error, TimeoutError) or (isinstance(error, ConnectionLostError) and error.timed_out):
        return BackendUnavailable(f"{address.marked} did not answer in time")
    if isinstance(error, OSError) and error.errno in net.SHORTAGES:
        return BackendUnavailable(f"the gateway cannot connect to {address.marked}: {os.strerror(error.errno)}")
    if isinstance(error, (ConnectionLostError, OSError)):
        return BackendUnavailable(f"{address.marked} does not answer: {net.reason(error)}")
    return BackendUnavailable(f"{address.marked} did not answer as Kestrel does ({type(error).__name__})")


def not_confirmed(error: BaseException, address: Address) -> GatewayError:
    """For the confirm of an open read."""
    if isinstance(error, MemcacheUnknownCommandError):
        return LeaseLost("Kestrel no longer held the job, so it is back on its queue")
    if isinstance(error, MemcacheServerError):
        return not_asked(error, address)
    if isinstance(error, ConnectionLostError) and error.unsent:
        return LeaseLost(LOST)
    answer = "no answer" if isinstance(error, ConnectionLostError) else "no valid answer"
    return OutcomeUnknown(f"the ack was sent to {address.marked}, but {answer} came")


def perhaps_done(error: BaseException, address: Address) -> BackendUnavailable | OutcomeUnknown:
    """For a command that changes something: it may have taken effect unless the server refused it or got only a
    part."""
    if isinstance(error, (BackendUnavailable, MemcacheServerError)):
        return not_asked(error, address)
    if isinstance(error, MemcacheIllegalInputError):
        return BackendUnavailable(f"nothing was sent to {address.marked}: {error}")
    if isinstance(error, ConnectionLostError) and error.unsent:
        return BackendUnavailable(f"{address.marked} did not accept the command: {net.reason(error)}")
    return OutcomeUnknown(f"the command was sent to {address.marked}, but no valid answer came")


def copied(error: _Error) -> _Error:
    """A copy of the error for one more caller: a raised exception collects tracebacks."""
    copy = type(error)(error.detail)
    copy.__cause__ = error.__cause__
    return copy


def says_too_large(refusal: MemcacheServerError) -> bool:
    """Whether the server will never accept such an item. Then the server is healthy and its connection stays open.

    Source: memcached's doc/protocol.txt, "SERVER_ERROR object too large for cache", which the embedded broker sends on
    its Unix socket. Kestrel itself answers NOT_STORED, as for a full queue (kestrel-wire.md).
    """
    return "too large" in _text(refusal)


def _text(error: BaseException) -> str:
    """At most one short line of a server's own words."""
    words = error.args[0] if error.args else b""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    return text[:120] or "no reason given"
