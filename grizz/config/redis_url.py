"""URLs of a Redis: one server, a Unix socket, a master that Sentinels know, or a cluster.

    redis://user:password@host:6379/0                      rediss:// with TLS
    unix:///run/redis.sock?db=0
    redis+sentinel://user:password@host:26379,host2/name/0 rediss+sentinel:// with TLS
    redis+cluster://host:6379,host2:6379                   rediss+cluster:// with TLS

User and password are percent-decoded; the last @ ends them. Nothing but `db` may stand in the query: what the client
does must not depend on a URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote

Kind = Literal["single", "unix", "sentinel", "cluster"]
_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS = {"sentinel": 26379}
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        hosts: (name, port) of the server, or of the Sentinels or cluster nodes to ask; empty for a Unix socket.
        path: of the Unix socket.
        master: the name under which the Sentinels know the master.
    """

    kind: Kind
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def where(self) -> str:
        """The place, without anything secret."""
        places = (
            ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts) or self.path
        )
        return f"{self.master}@{places}" if self.master else places


def parse_redis_url(url: str) -> RedisUrl:
    """Take a URL apart.

    Raises:
        ValueError: it is not one of the module's docstring.
    """
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _SCHEMES or re.search(r"\s", url):
        raise ValueError("unknown scheme")
    kind, tls = _SCHEMES[scheme]
    credentials, at, place = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    place, _, query = place.partition("?")
    options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    if options.keys() - {"db"}:
        raise ValueError("only db may stand in the query")
    names, slash, path = place.partition("/")
    path_db, master = options.get("db", ""), ""
    if kind == "unix":
        if names or not path:
            raise ValueError("no path")
        hosts: tuple[tuple[str, int], ...] = ()
    else:
        hosts = tuple(_host(name, _PORTS.get(kind, 6379)) for name in names.split(","))
        if kind == "sentinel":
            master, _, path = path.partition("/")
            if not master:
                raise ValueError("no master name")
        path_db = path or path_db
    if kind == "single" and len(hosts) != 1:
        raise ValueError("more than one host")
    if not re.fullmatch(r"\d{0,5}", path_db) or (kind == "cluster" and int(path_db or 0)):
        raise ValueError("no such database")
    return RedisUrl(
        kind=kind,
        tls=tls,
        hosts=hosts,
        path="/" + unquote(path) if kind == "unix" else "",
        master=unquote(master),
        db=int(path_db or 0),
        user=unquote(user) if at and colon else "",
        password=unquote(password if colon else credentials),
    )


def is_redis_url(text: str) -> bool:
    """Is it one? May raise ValueError instead, as `Form.matches` may."""
    return bool(parse_redis_url(text))


def _host(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match["port"] or port) < 65536:
        raise ValueError("no such host")
    return match["host"].strip("[]"), int(match["port"] or port)
