"""Checks the files for TLS before anything starts, with one line for an error."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.files import read_trusted
from gateway.settings import Settings, SettingsError


def check(settings: Settings) -> None:
    """Raises SettingsError if the certificate, its key or the authorities cannot be used."""
    if settings.ssl_certfile is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _usable("ssl-certfile", settings.ssl_certfile)
    if settings.ssl_keyfile is not None:
        _usable("ssl-keyfile", settings.ssl_keyfile)
    password = settings.ssl_keyfile_password
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, lambda: password)
    except (ssl.SSLError, ValueError) as exc:
        files = f"{settings.ssl_certfile} and {settings.ssl_keyfile or 'the key in it'}"
        raise SettingsError(f"ssl-certfile: {files} are not a certificate and its key: {exc}") from exc
    if settings.ssl_ca_certs is not None:
        _usable("ssl-ca-certs", settings.ssl_ca_certs)
        try:
            context.load_verify_locations(settings.ssl_ca_certs)
        except ssl.SSLError as exc:
            raise SettingsError(f"ssl-ca-certs: {settings.ssl_ca_certs} has no certificates: {exc}") from exc


def _usable(name: str, path: Path) -> None:
    try:
        read_trusted(path)
    except OSError as exc:
        raise SettingsError(f"{name}: {path} cannot be read: {exc.strerror or exc}") from exc
