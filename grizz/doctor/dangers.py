"""Settings that are fine one by one and let a server start, and that its operator will be sorry for."""

from __future__ import annotations

import ipaddress
import os
import shlex
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from grizz.config import Loaded, is_loopback
from grizz.doctor.findings import Finding, State
from grizz.errors import ConfigError
from grizz.web.auth import Door
from grizz.web.auth.key_sets import fetch

# Where containers have their secrets: readable by all, and nobody else is there.
_MOUNTED = "/run/secrets/"
_EVERYBODY_BITS = {4: 8, 6: 16}


def proxies(loaded: Loaded) -> Iterator[Finding]:
    """Who is believed when it says for whom a request is, and what a proxy in front would need."""
    server = loaded.settings.server
    wide = [name for name in server.trusted_proxies if _is_wide(name)]
    loopback = is_loopback(server.host)
    if wide:
        text = f"server.trusted_proxies names {', '.join(wide)}: whoever is in there may claim any address"
        yield Finding("proxies", "bad", text, "name the proxies alone, such as 10.0.0.5 or 10.0.1.0/24")
    elif server.trusted_proxies:
        named = ", ".join(server.trusted_proxies)
        lacking = loopback and not server.allowed_hosts
        advice = "name the host of your site in server.allowed_hosts, else its requests are refused (403)"
        state: State = "note" if lacking else "ok"
        yield Finding("proxies", state, f"{named} are believed", advice if lacking else _LOOK)
    elif loopback and (loaded.settings.has_accounts or server.allowed_hosts):
        named = "" if server.allowed_hosts else "server.allowed_hosts, and "
        text = "programs of this machine are believed, as a proxy on it has to be"
        yield Finding("proxies", "ok", text, f"with one in front, set {named}server.trusted_proxies to be strict")
    elif loopback:
        yield Finding("proxies", "ok", "none is needed: it is for this machine alone")
    else:
        yield _in_the_open(server.tls_cert_file)


_LOOK = "python grizz.py doctor --through https://your-site looks at them from outside, once it runs"


def _in_the_open(certificate: str) -> Finding:
    text = "no proxy is believed: behind one, all clients would share its address and its limits"
    if certificate:
        return Finding("proxies", "ok", text, "if there is one, name it in server.trusted_proxies")
    text = f"{text}; without one, keys and answers go over the network in the clear"
    advice = "name the proxy in server.trusted_proxies, or serve https yourself: server.tls_cert_file"
    return Finding("proxies", "note", text, advice)


def _is_wide(network: str) -> bool:
    """Whether so much of the Internet is in there that it can be no list of proxies."""
    known = ipaddress.ip_network(network, strict=False)
    return known.prefixlen < _EVERYBODY_BITS[known.version]


def dangers(loaded: Loaded) -> Iterator[Finding]:
    """Everything else."""
    settings = loaded.settings
    if not settings.workers.concurrency and not settings.redis.url:
        text = "workers.concurrency = 0 without a Redis: nobody will answer"
        yield Finding("workers", "bad", text, "set workers.concurrency to 1 or more, or redis.url")
    asked = settings.upstreams or {"": settings.upstream}
    longest_s = max(one.first_token_timeout_s for one in asked.values())
    if longest_s > settings.workers.job_timeout_s:
        text = f"an attempt is over after {settings.workers.job_timeout_s:g} s (workers.job_timeout_s)"
        text += f", and the first word may take {longest_s:g} s (first_token_timeout_s)"
        yield Finding("times", "note", text, "make workers.job_timeout_s the longer one, by the longest answer")
    if sum(one.max_connections for one in asked.values()) < settings.workers.concurrency:
        text = f"{settings.workers.concurrency} jobs at a time, and fewer connections to the model servers"
        yield Finding("connections", "note", text, "raise upstream.max_connections, or lower workers.concurrency")


def tokens(loaded: Loaded) -> Iterator[Finding]:
    """Those of a login system: can they be checked, and are they for us?"""
    auth = loaded.settings.auth
    if not auth.jwt_keys and not auth.jwt_secret:
        return
    lacking = [name for name in ("jwt_issuer", "jwt_audience") if auth.jwt_keys and not getattr(auth, name)]
    try:
        Door(loaded.settings)
    except ConfigError as error:
        yield Finding("tokens", "bad", str(error), "Grizz does not start with it; see docs/security.md")
        return
    if lacking:
        text = f"no {' and no '.join(f'auth.{name}' for name in lacking)}: tokens that were made for others open this"
        yield Finding("tokens", "note", text, "set both to what your login system writes into iss and aud")
    else:
        yield Finding("tokens", "ok", "they can be checked")


async def signing_keys(loaded: Loaded) -> AsyncIterator[Finding]:
    """Are the keys there that sign them?"""
    url = loaded.settings.auth.jwt_keys
    if not url.startswith(("http://", "https://")):
        return
    try:
        count = len(await fetch(url))
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        text = f"{url}: {str(error) or 'no answer in time'}"
        yield Finding("signing keys", "bad", text, "set auth.jwt_keys to the jwks_uri of your login system")
        return
    if urlsplit(url).scheme == "http" and not is_loopback(urlsplit(url).hostname or ""):
        text = "they come over plain http: anyone on the way can replace them"
        yield Finding("signing keys", "bad", text, "set auth.jwt_keys to an https URL")
    else:
        yield Finding("signing keys", "ok", f"{count} at {url}")


def secret_files(loaded: Loaded) -> Iterator[Finding]:
    """May other users of this machine read them?"""
    named = [source.removeprefix("environment ") for source in loaded.sources.values() if source.endswith("_FILE")]
    server = loaded.settings.server
    given = [os.environ.get(name, "") for name in named] + [server.tls_key_file or server.tls_cert_file]
    files = [file for file in dict.fromkeys(given) if file and not file.startswith(_MOUNTED)]
    open_ones = [file for file in files if _is_open(Path(file))]
    if open_ones:
        text = f"any user of this machine may read {', '.join(open_ones)}"
        yield Finding("secrets", "note", text, f"chmod 600 {' '.join(map(shlex.quote, open_ones))}")
    elif files:
        yield Finding("secrets", "ok", f"no other user may read {', '.join(files)}")


def _is_open(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # that it cannot be read is told elsewhere


CHECKS = (proxies, secret_files, tokens, dangers)
