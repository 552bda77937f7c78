"""What may change while the process runs, and what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from grizz.config.settings import SECTIONS, TABLES, Settings
from grizz.config.sources import check
from grizz.errors import ConfigError

# Who may come in, how much they may do, and what they may call models. All else is built into connections, pools and
# buffers at the start.
LIVE = frozenset({"auth", "keys", "limits", "models"}) | {
    "log.level",
    "server.allow_anonymous",
    "server.allowed_hosts",
    "server.allowed_origins",
    "server.idle_timeout_s",
    "server.max_age_s",
    "server.tls_cert_file",
    "server.tls_key_file",
    "server.trusted_proxies",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload does.

    Attributes:
        settings: in force from now on.
        taken: dotted keys, or names of tables, that changed.
        refused: those that changed and wait for a restart.
    """

    settings: Settings
    taken: tuple[str, ...]
    refused: tuple[str, ...]


def is_live(key: str) -> bool:
    """May this setting change without a restart?"""
    return key in LIVE or key.partition(".")[0] in LIVE


def change(old: Settings, new: Settings) -> Change:
    """Take over from `new` what may change.

    Raises:
        ConfigError: what would be in force then is contradictory, though `new` by itself is not: an address that
            others can reach stays until a restart, and must not lose its accounts before. Nor may the last account go:
            a file that was emptied by mistake shall not open the door.
    """
    changed = list(_changed(old, new))
    live = {key for key in changed if is_live(key)}
    if bool(old.server.tls_cert_file) != bool(new.server.tls_cert_file):
        live -= {"server.tls_cert_file", "server.tls_key_file"}  # it listens with TLS or without
    sections: dict[str, Any] = {
        name: replace(
            getattr(old, name),
            **{
                item.name: getattr(getattr(new, name), item.name)
                for item in fields(section)
                if f"{name}.{item.name}" in live
            },
        )
        for name, section in SECTIONS.items()
    }
    sections |= {table: getattr(new if is_live(table) else old, table) for table in TABLES}
    merged = Settings(**sections)
    check(merged)
    if old.has_accounts and not merged.has_accounts and not merged.server.allow_anonymous:
        text = "no [keys.NAME] and no JWT setting is left, which would let everybody in: restart for that"
        raise ConfigError(f"{text}, or set server.allow_anonymous = true")
    return Change(
        merged, tuple(key for key in changed if key in live), tuple(key for key in changed if key not in live)
    )


def _changed(old: Settings, new: Settings) -> Iterator[str]:
    for name, section in SECTIONS.items():
        for item in fields(section):
            if getattr(getattr(old, name), item.name) != getattr(getattr(new, name), item.name):
                yield f"{name}.{item.name}"
    for table in TABLES:
        before, after = getattr(old, table), getattr(new, table)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield f"{table}.{name}"
