"""The secrets that replicas share, from the settings or from the file that they name."""

from __future__ import annotations

from gateway.files import read_trusted
from gateway.settings import Settings, SettingsError, check_secrets


def secrets_of(settings: Settings) -> tuple[bytes, ...]:
    """The cluster's secret, and a second one while it changes. Empty without replicas.

    Raises SettingsError if the file cannot be used.
    """
    secrets, path = settings.cluster_secret, settings.cluster_secret_file
    if path is not None:
        try:
            secrets = tuple(filter(None, map(str.strip, read_trusted(path).decode("utf-8-sig").splitlines())))
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise SettingsError(f"cluster-secret-file: {path} cannot be read: {reason}") from exc
        check_secrets("cluster-secret-file", secrets)
    return tuple(secret.encode() for secret in secrets)
