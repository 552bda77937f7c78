"""What one setting is: its bounds, its units, how text becomes a value and a value text again without its secrets."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from grizz.config.redis_url import is_redis_url

T = TypeVar("T")
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DAY_S = 86400

# How many of a setting's own unit one of the written unit is; "max" is what only a typing error goes beyond.
_SCALES: dict[str, dict[str, float]] = {
    "": {"max": 1e9},
    "s": {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": DAY_S, "max": 365 * DAY_S},
    "ms": {"ms": 1, "s": 1000, "m": 60_000, "max": 3_600_000},
    "bytes": {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "max": 1024 * GIB},
}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(ms|s|m|h|d|b|kib|mib|gib|)", re.ASCII | re.IGNORECASE)
# Controls, what ends a line somewhere, and halves of characters, which is how bytes that are no UTF-8 come in.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BOOLS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


class Form(NamedTuple):
    """A kind of text: in words, and as a test that may also raise ValueError."""

    words: str
    matches: Callable[[str], object]


def _is_url(*schemes: str) -> Callable[[str], bool]:
    def matches(text: str) -> bool:
        url = urlsplit(text)
        return url.scheme in schemes and bool(url.hostname) and url.port != 0 and not re.search(r"\s", text)

    return matches


def _is_address(text: str) -> bool:
    # A name has no colon, so that what has one is an IPv6 address or a mistake such as "127.0.0.1:8000".
    return bool(re.fullmatch(r"[\w.-]+", text) or ipaddress.ip_address(text))


def address_of(text: str) -> tuple[str, int]:
    """The address and the port of `ADDRESS:PORT`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is no such thing.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise ValueError("no address and port")
    return found[1] or found[2], int(found[3])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, an address or a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


TEXT = Form("a line of text", lambda text: True)
LISTEN = Form("an address and a port, like 127.0.0.1:9100 or [::1]:9100", lambda text: _is_address(address_of(text)[0]))
ADDRESS = Form("an address or name without port, like 127.0.0.1, or 0.0.0.0 for all", _is_address)
ORIGIN = Form("origins like https://chat.example.com", re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+").fullmatch)
HOST = Form("names like chat.example.com, no port", re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+\]").fullmatch)
KEY = Form("printable ASCII without spaces", re.compile(r"[!-~]+").fullmatch)
HTTP_URL = Form("an http:// or https:// URL like http://127.0.0.1:11434/v1", _is_url("http", "https"))
REDIS_URL = Form(
    "a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL like redis://127.0.0.1:6379",
    is_redis_url,
)
NETWORKS = Form("addresses or networks like 10.0.0.0/8", lambda text: ipaddress.ip_network(text, strict=False))
KEY_HASH = Form(
    "hashes like sha256:9f86d0…, as `python grizz.py new-key` prints", re.compile(r"sha256:[0-9a-f]{64}").fullmatch
)
MODELS = Form(
    "model names, or name=name-there when it is called otherwise there", re.compile(r"[^\s=,]+(=[^\s=,]+)?").fullmatch
)
MODEL = Form("model names", re.compile(r"[^\s=,]+").fullmatch)
ALIASES = Form("names as alias=model", re.compile(r"[^\s=,]+=[^\s=,]+").fullmatch)
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
PREFIX = Form("letters, digits, . _ - and :, at most 64", re.compile(r"[\w.:-]{1,64}").fullmatch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known about one setting.

    `low` and `high` are in the setting's own unit, both allowed. `form` judges a text, or each item of a list.
    `secret`: nobody may see the value, or the password in a URL. `flag`: the command line option, if it has one.
    `only`: the setting exists in the plain section ("section") or in its named tables ("table") alone.
    """

    key: str
    default: Any
    help: str
    low: float = 0
    high: float | None = None
    choices: tuple[str, ...] = ()
    form: Form = TEXT
    secret: Literal["", "all", "password"] = ""
    flag: str = ""
    only: Literal["", "section", "table"] = ""

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return "GRIZZ_" + re.sub(r"[.-]", "_", self.key).upper()

    @property
    def unit(self) -> str:
        """`bytes`, `s`, `ms`, or empty for a plain value."""
        tail = self.key.rpartition("_")[2]
        return tail if tail in _SCALES and isinstance(self.default, int | float) else ""

    @property
    def ceiling(self) -> float:
        """The largest allowed number."""
        return _SCALES[self.unit]["max"] if self.high is None else self.high

    @property
    def allowed(self) -> str:
        """What values are allowed, in words that follow "must be"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        match self.default:
            case bool():
                return "true or false (or 1/0, yes/no, on/off)"
            case tuple():
                return f"a list of {self.form.words}; separated by commas in the environment"
            case str():
                return self.form.words
        kinds = {"s": "a duration like 30s, 500ms, 2m or seconds,", "ms": "a duration like 50ms, 1s or milliseconds,"}
        kinds |= {"bytes": "a size like 16MiB, 256KiB or bytes,"}
        kind = kinds.get(self.unit, "a whole number" if isinstance(self.default, int) else "a number")
        return f"{kind} from {self.low:.15g} to {self.ceiling:.15g}"

    def parse(self, raw: object) -> Any:
        """The value that `raw` stands for; text of any source, or a value of TOML or of a flag.

        Raises:
            ValueError: it is none of what `allowed` says.
        """
        match self.default:
            case bool():
                return _parse_bool(raw)
            case tuple():
                return self._parse_list(raw)
            case str():
                return self._parse_text(raw)
        return self._parse_number(raw)

    def _parse_text(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise ValueError("not a text")
        text = raw.strip()
        if _UNSHOWN.search(text):
            raise ValueError("not such a text")
        # Empty means "none" where that is the default, and is a mistake elsewhere.
        fits = text in self.choices if self.choices else bool(self.form.matches(text)) if text else not self.default
        if not fits:
            raise ValueError("not such a text")
        return text

    def _parse_list(self, raw: object) -> tuple[str, ...]:
        items = [part for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
        if not isinstance(items, list):
            raise ValueError("not a list")
        texts = tuple(self._parse_text(item) for item in items)
        if "" in texts:
            raise ValueError("an empty item")
        return texts

    def _parse_number(self, raw: object) -> int | float:
        if isinstance(raw, str):
            match = _NUMBER.fullmatch(raw.strip())
            if match is None or (unit := match[2].lower()) not in ("", *_SCALES[self.unit]):
                raise ValueError("not a number with a unit it can have")
            amount = float(match[1]) * (_SCALES[self.unit][unit] if unit else 1)
        elif isinstance(raw, int | float) and not isinstance(raw, bool):
            amount = float(raw)
        else:
            raise ValueError("not a number")
        # Written so that NaN fails: it compares false with everything.
        if not self.low <= amount <= self.ceiling:
            raise ValueError("out of bounds")
        if not isinstance(self.default, int):
            return amount
        if not amount.is_integer():
            raise ValueError("not a whole number")
        return int(amount)

    def render(self, value: object) -> str:
        """`value` as it would stand in config.toml, without anything secret."""
        if self.secret and value:
            value = "***" if self.secret == "all" else redact_url(str(value))
        if self.unit == "bytes" and isinstance(value, int) and value:
            for name, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
                if value % size == 0:
                    return f'"{value // size}{name}"'
        return json.dumps(value, ensure_ascii=False, default=str)


def _parse_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw.strip().lower() not in _BOOLS:
        raise ValueError("neither true nor false")
    return _BOOLS[raw.strip().lower()]


def setting(default: T, help: str, **details: Any) -> T:
    """Declare one setting of a section; `details` are the other fields of `Setting`."""
    return field(default=default, repr="secret" not in details, metadata={"help": help, **details})


def one_line(text: str) -> str:
    """`text` with escapes for what would end the line, or cannot be printed."""
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def redact_url(url: str) -> str:
    """`url` without its password, in the user part or the query; also where the URL is malformed."""
    head, at, tail = url.rpartition("@")
    if at:
        scheme, slashes, user = head.partition("://")
        name, colon, _ = user.partition(":")
        # A user without password stays out of sight too: some services put the token there.
        head = f"{scheme}://{name}:***" if slashes and colon else f"{scheme}://***" if slashes else "***"
    return re.sub(r"([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&#]*", r"\1***", head + at + tail, flags=re.I)
