"""What settings are fine alone and wrong together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grizz.config import aliases
from grizz.config.schema import address_of, is_loopback
from grizz.config.settings import SETTINGS

# The keys, the one to name first, and why they do not go together.
Conflict = tuple[tuple[str, ...], str]


def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
    """All that is wrong with these values, by their dotted keys."""
    accounts = [key for key in values if key.startswith("keys.") or key in ("auth.jwt_secret", "auth.jwt_keys")]
    known_clients = any(values[key] for key in accounts)
    if not is_loopback(values["server.host"]) and not values["server.allow_anonymous"] and not known_clients:
        why = "anyone who reaches it may use your model key; bind 127.0.0.1, set up API keys or JWT"
        yield (
            ("server.host", "server.allow_anonymous"),
            f"{why}, or pass --allow-anonymous / set server.allow_anonymous = true",
        )
    if values["replies.max_reply_bytes"] > values["replies.max_bytes"]:
        most = SETTINGS["replies.max_bytes"].render(values["replies.max_bytes"])
        yield ("replies.max_reply_bytes", "replies.max_bytes"), f"must not exceed replies.max_bytes, which is {most}"
    if values["demo.enabled"] and values["local.enabled"]:
        yield ("local.enabled", "demo.enabled"), "the demo model and a local one cannot both answer; choose one"
    if values["local.model_file"] and not values["local.enabled"]:
        yield ("local.model_file", "local.enabled"), "is of no use without local.enabled (--local)"
    if values["server.tls_key_file"] and not values["server.tls_cert_file"]:
        yield ("server.tls_key_file", "server.tls_cert_file"), "is of no use without server.tls_cert_file"
    if values["server.processes"] > 1 and not values["redis.url"]:
        why = "needs redis.url: without one each process would know its own answers alone, and clients find any process"
        yield ("server.processes", "redis.url"), why
    if (listen := values["server.metrics_listen"]) and address_of(listen)[1] + values["server.processes"] > 65536:
        yield ("server.metrics_listen", "server.processes"), "each process has a port of its own, and the last is 65535"
    if values["server.processes"] > 1 and values["local.enabled"]:
        why = "each process would load the model; start it once, and name its address with upstream.base_url"
        yield ("server.processes", "local.enabled"), why
    store, shared = values["history.store"], bool(values["redis.url"])
    if store == "redis" and not shared:
        yield ("history.store", "redis.url"), "needs redis.url"
    if store in ("memory", "sqlite") and shared:
        why = "with redis.url the processes find each other's responses there; use auto or redis"
        yield ("history.store", "redis.url"), why
    for key, value in values.items():
        if key.startswith("upstreams.") and key.endswith(".base_url") and not value:
            yield (key,), "a named upstream needs a base URL"
        if key.startswith("keys.") and key.endswith(".hashes") and not value:
            yield (key,), "needs the hash of a key; `python grizz.py new-key` makes one"
    yield from _shared_hashes(values)
    yield from _misnamed(values)


def _misnamed(values: Mapping[str, Any]) -> Iterator[Conflict]:
    """Aliases that lead nowhere, and defaults that their own key may not use."""
    names = [key for key in values if key.startswith("upstreams.") and key.endswith(".models")]
    listed = {key.split(".")[1]: [model.partition("=")[0] for model in values[key]] for key in names}
    for why in aliases.mistakes(values["models.aliases"], listed):
        yield ("models.aliases", *names), why
    known = aliases.targets(values["models.aliases"])
    for key in [key for key in values if key.startswith("keys.") and key.endswith(".model")]:
        may = values[f"{key}s"]
        if values[key] and may and not {values[key], aliases.resolve(known, values[key])} & set(may):
            yield (key, f"{key}s"), f"is none of {key}s"


def _shared_hashes(values: Mapping[str, Any]) -> Iterator[Conflict]:
    """A key is its table's: in two, it would be chance whose it is and which limits it has."""
    first: dict[str, str] = {}
    for key in sorted(key for key in values if key.startswith("keys.") and key.endswith(".hashes")):
        for digest in dict.fromkeys(values[key]):
            other = first.setdefault(digest, key)
            if other != key:
                mine, theirs = key.rpartition(".")[0], other.rpartition(".")[0]
                yield (key, other), f"[{theirs}] and [{mine}] have the same hash, {digest}; keep it in one of them"
