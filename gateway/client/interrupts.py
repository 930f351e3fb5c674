"""Signals that end a command: SIGINT, SIGTERM and SIGHUP all raise KeyboardInterrupt, so a command ends in one way.

A signal that is ignored when the program starts stays ignored, as under nohup.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal came. Of KeyboardInterrupt itself Python remembers that it passed through an `exec`, as that of a
    dataclass during an import: then the process would end by SIGINT, whatever exit code it chooses.
    Source: CPython, run_eval_code_obj."""


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """In the block each of the signals raises KeyboardInterrupt."""
    with _handled(_interrupt):
        yield


@contextlib.contextmanager
def later() -> Iterator[None]:
    """A signal raises KeyboardInterrupt at the end of the block, so that the outcome of a request is known; a second
    one at once."""
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise Interrupted
        came = True

    with _handled(note):
        yield
    if came:
        raise Interrupted


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    obeyed = [each for each in SIGNALS if before[each] is not signal.SIG_IGN]
    for each in obeyed:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each in obeyed:
            signal.signal(each, before[each])
