"""What the owner of a multiplexed connection makes of its frames and of its end."""

from __future__ import annotations

from typing import Protocol

from .frames import BrokenFrameError, Frame


class FrameHandler(Protocol):
    """What the frames mean."""

    def opened(self) -> None:
        """The connection begins."""

    def greeted(self, common: int | None) -> None:
        """The peer's greeting has come, with the version that both speak. Without one the connection closes."""

    def handle(self, message: Frame) -> None:
        """A message other than greetings and credit. Raises BrokenFrameError."""

    def gather(self) -> None:
        """What is to be sent will be written now: frames that it has put off until then follow."""

    def unblocked(self) -> None:
        """`blocked` was seen, and is over."""

    def credits_back(self) -> tuple[bool, bool]:
        """Whether items and operations that were handled are out of memory, so that the peer may send more."""

    def broken(self, error: BrokenFrameError) -> None:
        """The peer has sent a broken frame. `ended` follows."""

    def ended(self) -> None:
        """The connection is over."""

    def received(self, count: int) -> None:
        """Bytes have come."""

    def wrote(self, count: int) -> None:
        """Bytes were written."""
