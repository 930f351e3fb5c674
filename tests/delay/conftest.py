"""The embedded broker as a process."""

from tests.kestrel.conftest import own_broker

__all__ = ["own_broker"]
