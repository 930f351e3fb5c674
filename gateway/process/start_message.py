"""What a worker gets at its start, as one line of the channel. Settings and the lease key are never in argv or the
environment, where other users can read them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class StartMessage:
    """Everything a worker needs to start: its number, its settings and its sockets."""

    index: int
    settings: Settings
    kestrel: tuple[str, ...]
    run_dir: Path
    lease_key: bytes
    listener_fd: int
    app: str  # MODULE:FACTORY
    tenanted: bool = False  # whether keys have tenants: the same for every worker, until the gateway ends
    cluster_secrets: tuple[bytes, ...] = ()
    worker_socket: str = ""  # of the embedded broker, for multiplexed connections

    def message(self) -> dict[str, Any]:
        """As a message of the channel."""
        return {
            "command": "start",
            "index": self.index,
            "settings": {name: _plain(value) for name, value in dataclasses.asdict(self.settings).items()},
            "kestrel": list(self.kestrel),
            "run_dir": str(self.run_dir),
            "lease_key": self.lease_key.hex(),
            "listener_fd": self.listener_fd,
            "app": self.app,
            "tenanted": self.tenanted,
            "cluster_secrets": [secret.hex() for secret in self.cluster_secrets],
            "worker_socket": self.worker_socket,
        }

    @classmethod
    def of(cls, message: dict[str, Any]) -> StartMessage:
        """The start message in a message of the channel."""
        kinds = {field.name: str(field.type) for field in dataclasses.fields(Settings)}
        values = {name: _typed(kinds[name], value) for name, value in message["settings"].items()}
        return cls(
            index=message["index"],
            settings=Settings(**values),
            kestrel=tuple(message["kestrel"]),
            run_dir=Path(message["run_dir"]),
            lease_key=bytes.fromhex(message["lease_key"]),
            listener_fd=message["listener_fd"],
            app=message["app"],
            tenanted=message["tenanted"],
            cluster_secrets=tuple(map(bytes.fromhex, message["cluster_secrets"])),
            worker_socket=message["worker_socket"],
        )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _typed(kind: str, value: Any) -> Any:
    if kind.startswith("tuple"):
        return tuple(value)
    if kind.startswith("Path") and value is not None:
        return Path(value)
    return value
