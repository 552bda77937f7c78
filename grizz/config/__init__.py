"""Frozen settings. Each is declared once; validation, variable names, help and config.toml all follow from that.

    schema.py     what one setting is: bounds, units, text to value and back
    settings.py   every setting there is, section by section
    aliases.py    other names for models
    tables.py     named tables, of which there may be many
    conflicts.py  what does not go together
    live.py       what may change while the process runs
    sources.py    where values come from, and what takes precedence

Precedence: flags > GRIZZ_SECTION_KEY > OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_MODEL > config.toml > defaults.
Names carry their unit: `_s` seconds, `_ms` milliseconds, `_bytes` bytes.
"""

from grizz.config.live import Change, change, is_live
from grizz.config.schema import Setting, address_of, is_loopback
from grizz.config.settings import (
    SECTIONS,
    SETTINGS,
    TABLES,
    AuthSettings,
    DemoSettings,
    HistorySettings,
    KeySettings,
    LimitSettings,
    LocalSettings,
    LogSettings,
    ModelSettings,
    QueueSettings,
    RedisSettings,
    ReplySettings,
    ServerSettings,
    Settings,
    UpstreamSettings,
    WorkerSettings,
)
from grizz.config.sources import Loaded, default_toml, load

__all__ = [
    "SECTIONS",
    "SETTINGS",
    "TABLES",
    "AuthSettings",
    "Change",
    "DemoSettings",
    "HistorySettings",
    "KeySettings",
    "LimitSettings",
    "Loaded",
    "LocalSettings",
    "LogSettings",
    "ModelSettings",
    "QueueSettings",
    "RedisSettings",
    "ReplySettings",
    "ServerSettings",
    "Setting",
    "Settings",
    "UpstreamSettings",
    "WorkerSettings",
    "address_of",
    "change",
    "default_toml",
    "is_live",
    "is_loopback",
    "load",
]
