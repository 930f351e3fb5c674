"""The embedded broker as a process."""

from tests.kestrel.conftest import own_broker, renewed_broker

__all__ = ["own_broker", "renewed_broker"]
