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
        # Into a context of its own first: a bad pair would leave the other one with half of it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert_file, settings.tls_key_file or None, password=_no_password
        )
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file or None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = "it is encrypted, and nobody is here to type a password" if isinstance(error, ValueError) else error
        raise ConfigError(f"{files}: cannot be used: {reason}") from error


def _no_password() -> str:
    raise ValueError("no password")
