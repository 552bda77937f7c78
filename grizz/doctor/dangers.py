"""Settings that are fine one by one and let a server start, and that its operator will be sorry for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from grizz.config import Loaded, is_loopback
from grizz.doctor.findings import Finding, State

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
    if (settings.auth.jwt_keys or settings.auth.jwt_secret) and not settings.auth.jwt_audience:
        text = "no auth.jwt_audience: a token that was made for any other service opens this one, too"
        yield Finding("tokens", "note", text, "set auth.jwt_audience to what your login system writes into aud")
    asked = settings.upstreams or {"": settings.upstream}
    longest_s = max(one.first_token_timeout_s for one in asked.values())
    if longest_s > settings.workers.job_timeout_s:
        text = f"an attempt is over after {settings.workers.job_timeout_s:g} s (workers.job_timeout_s)"
        text += f", and the first word may take {longest_s:g} s (first_token_timeout_s)"
        yield Finding("times", "note", text, "make workers.job_timeout_s the longer one, by the longest answer")
    if sum(one.max_connections for one in asked.values()) < settings.workers.concurrency:
        text = f"{settings.workers.concurrency} jobs at a time, and fewer connections to the model servers"
        yield Finding("connections", "note", text, "raise upstream.max_connections, or lower workers.concurrency")


CHECKS = (proxies, dangers)
