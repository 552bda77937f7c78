"""The certificate that Grizz serves https and wss with, where no proxy does."""

from __future__ import annotations

import ssl

from grizz.config import ServerSettings
from grizz.errors import ConfigError


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """What to listen with; None to listen without TLS.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    if not settings.tls_cert_file:
        return None
    check_certificate(settings)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, settings)
    return context


def check_certificate(settings: ServerSettings) -> None:
    """Could these files be served with? In a context of its own: a bad pair would leave another one with half of it.

    Raises:
        ConfigError: no.
    """
    files = f"server.tls_cert_file = {settings.tls_cert_file!r}"
    if settings.tls_key_file:
        files += f", server.tls_key_file = {settings.tls_key_file!r}"
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)
    except ValueError as error:
        raise ConfigError(f"{files}: cannot be used: the key is encrypted, and nobody is here to unlock it") from error
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{files}: cannot be used: {error}") from error


def load_certificate(context: ssl.SSLContext, settings: ServerSettings) -> None:
    """Use the files as they are now, for the handshakes to come; check them first."""
    context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file or None, password=_no_password)


def _no_password() -> str:
    raise ValueError("no password")
