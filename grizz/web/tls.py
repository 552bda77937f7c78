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
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: ServerSettings) -> None:
    """Use the files as they are now, for the handshakes to come.

    Raises:
        ConfigError: they cannot be used; handshakes go on with what was loaded before.
    """
    files = f"server.tls_cert_file = {settings.tls_cert_file!r}"
    if settings.tls_key_file:
        files += f", server.tls_key_file = {settings.tls_key_file!r}"
    try:
        # Into one of its own first: a bad pair would leave the other one with half of it.
        for one in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            one.load_cert_chain(settings.tls_cert_file, settings.tls_key_file or None, password=_no_password)
    except ValueError as error:
        raise ConfigError(f"{files}: cannot be used: the key is encrypted, and nobody is here to unlock it") from error
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{files}: cannot be used: {error}") from error


def _no_password() -> str:
    raise ValueError("no password")
