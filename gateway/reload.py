"""Reads again the files that may change at run time. A file with mistakes is logged and changes nothing.

Requests in progress, waiting polls and leases continue. A stream ends if its key does not allow it any more.
Knows no part beyond what a file changes in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.api.access.admission import Admission
from gateway.common.counted import counted
from gateway.config import policies
from gateway.config.cluster_secret import secrets_of
from gateway.config.keys import Keys, load
from gateway.config.toml_file import Mistake, MistakesError
from gateway.delivery.caps.caps import Caps
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import PollLimits
from gateway.delivery.queues.catalog import Catalog
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.streams.open_streams import OpenStreams
from gateway.forwarding.replicas import Replicas
from gateway.forwarding.seal import lease_keys
from gateway.leases.ids import LeaseIds
from gateway.leases.registry import Registry
from gateway.names.namespace import Namespace
from gateway.settings import Settings, SettingsError

log = logging.getLogger(__name__)

Reload = Callable[[], Awaitable[None]]
"""Reads one file again and uses it. Raises MistakesError; then the previous content stays in use."""


async def reload_all(files: Sequence[Reload]) -> None:
    """Reads each file, also after one that has mistakes."""
    for file in files:
        mistakes = await _mistakes(file)
        for mistake in mistakes:
            log.error("reload: %s", mistake)
        if mistakes:
            log.error("reload: the file has mistakes; the previous content stays in use")


async def _mistakes(file: Reload) -> Sequence[Mistake]:
    """The mistakes in the file."""
    try:
        await file()
    except MistakesError as exc:
        return exc.mistakes
    return ()


def read_keys(path: Path, *, tenanted: bool) -> Keys:
    """The keys in the file. Raises MistakesError, also if they would change whether there are tenants."""
    keys = load(path)
    if keys.tenanted is not None and keys.tenanted != tenanted:
        what = "keys had a tenant" if tenanted else "keys had no tenant"
        raise MistakesError([Mistake(str(path), 0, f"{what} at the start; restart the gateway to change that")])
    return keys


@dataclass(frozen=True, slots=True)
class KeyReload:
    """The file of keys. path: None without keys."""

    path: Path | None
    admission: Admission
    streams: OpenStreams
    tenanted: bool

    async def __call__(self) -> None:
        if self.path is not None:
            keys = await asyncio.to_thread(read_keys, self.path, tenanted=self.tenanted)
            self.admission.replace(keys)
            self.streams.keys_changed()
            log.info("reload: %s", counted(len(keys), "key"))


@dataclass(frozen=True, slots=True)
class PolicyReload:
    """The file of policies. path: None without policies."""

    path: Path | None
    namespace: Namespace
    catalog: Catalog
    known: KnownQueues
    caps: Caps
    pauses: Pauses
    poll_limits: PollLimits
    registry: Registry

    async def __call__(self) -> None:
        if self.path is not None:
            self.catalog.apply(await asyncio.to_thread(policies.load, self.path, self.namespace))
            self.caps.policies_changed(self.poll_limits.queues, self.registry.leases.open())
            self.pauses.policies_changed()
            self.known.refresh(time.monotonic())  # a queue may have another key
            log.info("reload: policies of %s", self.path)


@dataclass(frozen=True, slots=True)
class SecretReload:
    """The file of the cluster's secrets. All replicas settle leases with the new ones from then on."""

    settings: Settings
    ids: LeaseIds
    replicas: Replicas | None

    async def __call__(self) -> None:
        path = self.settings.cluster_secret_file
        if path is None or self.replicas is None:
            return
        try:
            secrets = await asyncio.to_thread(secrets_of, self.settings)
        except SettingsError as exc:
            raise MistakesError([Mistake(str(path), 0, str(exc))]) from exc
        self.ids.replace(lease_keys(secrets))
        self.replicas.replace(secrets)
        log.info("reload: %s of the cluster", counted(len(secrets), "secret"))
