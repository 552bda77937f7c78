"""Every setting there is, section by section. Values made in code are not validated, those of `load` are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from grizz.config.schema import (
    ADDRESS,
    ALIASES,
    DAY_S,
    GIB,
    HOST,
    HTTP_URL,
    KEY,
    KEY_HASH,
    KIB,
    LISTEN,
    MIB,
    MODEL,
    MODELS,
    NETWORKS,
    ORIGIN,
    PREFIX,
    REDIS_URL,
    Setting,
    setting,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The listening socket and the clients on it."""

    host: str = setting("127.0.0.1", "address to listen on", form=ADDRESS, flag="--host")
    port: int = setting(8000, "port to listen on; 0 takes any free one", high=65535, flag="--port")
    processes: int = setting(
        1, "processes that share the port, and the Redis that this needs", low=1, high=64, flag="--processes"
    )
    reuse_port: bool = setting(False, "let other processes of this user listen on the same port, too (SO_REUSEPORT)")
    metrics_listen: str = setting(
        "",
        "address and port of /metrics, for whoever reaches it; process N of several adds N; empty: on the port",
        form=LISTEN,
        flag="--metrics-listen",
    )
    allow_anonymous: bool = setting(
        False, "let anyone who reaches the address use it, and your model key", flag="--allow-anonymous"
    )
    allowed_origins: tuple[str, ...] = setting((), "origins besides our own whose pages may connect", form=ORIGIN)
    allowed_hosts: tuple[str, ...] = setting((), "names besides our own address a Host header may carry", form=HOST)
    trusted_proxies: tuple[str, ...] = setting(
        (), "proxies whose X-Forwarded-For and -Proto are believed", form=NETWORKS
    )
    tls_cert_file: str = setting("", "certificate to serve https and wss with, and its chain; empty serves plain")
    tls_key_file: str = setting("", "key of that certificate, if the same file does not hold it")
    drain_timeout_s: float = setting(25.0, "how long a stop waits for running answers", flag="--drain-timeout")
    drain_delay_s: float = setting(0.0, "how long a stop still accepts, so that load balancers notice first")
    max_message_bytes: int = setting(16 * MIB, "largest WebSocket message and HTTP body", low=KIB, high=GIB)
    heartbeat_s: float = setting(25.0, "time between WebSocket pings", low=0.1)
    stall_timeout_s: float = setting(10.0, "a write stuck for longer ends its connection", low=0.1)
    request_timeout_s: float = setting(30.0, "longest time a client may take to send one request", low=0.1)
    idle_timeout_s: float = setting(
        300.0, "a WebSocket without a frame for longer is closed, unless it waits for an answer; 0 never"
    )
    max_age_s: float = setting(3600.0, "a WebSocket older than that takes no more requests, and ends; 0 never")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Who may use it. With a [keys.NAME] or a JWT setting, nobody else may, unless server.allow_anonymous says so."""

    jwt_secret: str = setting("", "secret that signs HS256 tokens", form=KEY, secret="all")
    jwt_keys: str = setting("", "file or https URL of a JSON Web Key Set that signs RS256 and ES256 tokens")
    jwt_issuer: str = setting("", "issuer a token must have; empty takes any")
    jwt_audience: str = setting("", "audience a token must have; empty takes any")
    jwt_user_claim: str = setting("sub", "claim that names the user")
    jwt_leeway_s: float = setting(30.0, "how far the clock of who signs tokens may be off")
    ticket_s: float = setting(30.0, "how long a ticket for one WebSocket is valid", low=1)
    first_message_s: float = setting(5.0, "how long a WebSocket may wait before it says who it is", low=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """A user's API keys, and limits of their own instead of those in [limits]; 0 keeps that of [limits]."""

    hashes: tuple[str, ...] = setting((), "hashes of the keys; several while one replaces another", form=KEY_HASH)
    user: str = setting("", "whose they are, to share answers with other keys; empty is the table's name")
    model: str = setting("", "model of requests with these keys that name none; empty is the server's", form=MODEL)
    models: tuple[str, ...] = setting(
        (), "models and aliases these keys may ask for; none listed allows all", form=MODEL
    )
    connections: int = setting(0, "open connections with these keys")
    concurrent_responses: int = setting(0, "unfinished responses of these keys")
    requests_per_minute: int = setting(0, "new responses of these keys within a minute")
    tokens_per_minute: int = setting(0, "tokens, in and out, of these keys within a minute")
    queue_share: float = setting(0.0, "the part of the queue that jobs of their user may fill", high=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The pool that runs jobs."""

    concurrency: int = setting(32, "jobs at the same time; 0 serves clients and runs no jobs", high=100_000)
    job_timeout_s: float = setting(120.0, "longest time one attempt may take", low=0.1)
    lease_s: float = setting(10.0, "how long a worker may be silent before its job goes to another", low=0.1)
    max_attempts: int = setting(3, "attempts before a job is given up", low=1, high=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Jobs that wait for a worker; a request beyond these bounds is refused."""

    max_jobs: int = setting(10_000, "most jobs waiting", low=1)
    max_bytes: int = setting(256 * MIB, "most bytes of jobs waiting", low=KIB)
    max_wait_s: float = setting(300.0, "longest time a job waits before it fails", low=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How much clients may do. In the first six, 0 means no limit."""

    connections_per_user: int = setting(0, "open connections of one user")
    connections_per_address: int = setting(1000, "open connections from one IP address; this machine's are not counted")
    concurrent_responses_per_user: int = setting(0, "unfinished responses of one user")
    requests_per_minute: int = setting(0, "new responses of one user within a minute")
    tokens_per_minute: int = setting(0, "tokens, in and out, of one user within a minute")
    queue_share: float = setting(0.5, "the part of the queue that one user's jobs may fill", high=1)
    connections: int = setting(10_000, "open connections in all: WebSockets, and HTTP requests being answered", low=1)
    connections_unknown: int = setting(200, "WebSockets that have not said yet who they are", low=1)
    lanes_per_connection: int = setting(32, "lanes of one WebSocket", low=1)
    responses_per_connection: int = setting(16, "unfinished responses of one WebSocket", low=1)
    queued_creates_per_connection: int = setting(64, "requests waiting for their turn on one WebSocket", low=1)
    readers_per_response: int = setting(1000, "tabs and streams that follow one response", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """The OpenAI-compatible API that answers; with neither key nor base URL, the built-in demo model does.

    With named tables they answer, and the section holds what is the same for all of them.
    """

    priority: int = setting(1, "lower ones are asked first; equal ones take turns", only="table")
    models: tuple[str, ...] = setting((), "models it has; none listed takes any", form=MODELS, only="table")

    base_url: str = setting(
        "", "base URL of the API, also OPENAI_BASE_URL; empty is OpenAI's own", form=HTTP_URL, secret="password"
    )
    api_key: str = setting("", "key of the API", form=KEY, secret="all")
    model: str = setting("", "model of requests that name none, also OPENAI_MODEL", only="section")
    api: str = setting(
        "chat", "what it speaks: Chat Completions, or the Responses API itself", choices=("chat", "responses")
    )
    max_retries: int = setting(2, "tries after the first one; only before the first word of an answer", high=10)
    connect_timeout_s: float = setting(5.0, "longest time to connect", low=0.1)
    first_token_timeout_s: float = setting(60.0, "longest time to the first word of an answer", low=0.1)
    loading_timeout_s: float = setting(
        30.0, "how long jobs wait for one that says 503, as while it loads its model, before they fail"
    )
    idle_timeout_s: float = setting(60.0, "longest silence before and within an answer", low=0.1)
    max_connections: int = setting(1000, "most requests to it at the same time", low=1, high=100_000)
    breaker_failures: int = setting(10, "failures in a row, within a minute, after which it rests", low=1)
    breaker_first_s: float = setting(1.0, "its shortest rest; each one is longer, until it answers", low=0.1)
    breaker_longest_s: float = setting(30.0, "its longest rest", low=0.1)
    max_tokens_field: str = setting(
        "max_tokens", "what the API calls the limit of tokens", choices=("max_tokens", "max_completion_tokens")
    )
    developer_role: bool = setting(False, "whether the API knows the role developer; if not, system is sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What clients may call models, besides the names that the upstreams have for them."""

    aliases: tuple[str, ...] = setting((), 'other names for models, such as "fast=gpt-5-mini"', form=ALIASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplySettings:
    """The logs of responses, from which every client reads and resumes."""

    flush_ms: int = setting(50, "longest time a piece of text waits for more, to go out with it; 0 sends at once")
    grace_s: float = setting(60.0, "how long an answer that nobody follows goes on before it is cancelled")
    keep_s: float = setting(600.0, "how long a finished reply can be replayed")
    max_bytes: int = setting(256 * MIB, "memory for replies; the oldest finished ones give way", low=KIB)
    max_reply_bytes: int = setting(16 * MIB, "largest single reply", low=KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """Stored responses, for previous_response_id and conversations; in a file, unfinished ones too."""

    store: str = setting(
        "auto",
        "where; auto is redis with redis.url, else sqlite, a file of this process alone, else memory",
        choices=("auto", "memory", "redis", "sqlite"),
    )
    path: str = setting(
        "", "that file; empty is grizz.db in systemd's StateDirectory, else ~/.local/state/grizz/grizz.db"
    )
    max_file_bytes: int = setting(GIB, "largest such file; the least recently used give way", low=MIB)
    keep_s: float = setting(float(DAY_S), "how long a response is stored")
    max_bytes: int = setting(256 * MIB, "memory for stored responses; the oldest give way", low=KIB)
    compaction_secret: str = setting(
        "", "secret that seals compacted conversations; empty makes one", form=KEY, secret="all"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Log lines, on standard error."""

    level: str = setting(
        "info", "least important log lines to write", choices=("debug", "info", "warning", "error"), flag="--log-level"
    )
    format: str = setting(
        "auto",
        "how log lines look; auto is text on a terminal, else JSON",
        choices=("auto", "json", "text"),
        flag="--log-format",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """The Redis through which several processes share their jobs."""

    url: str = setting(
        "",
        "URL of the Redis to share jobs through; empty is one process alone",
        form=REDIS_URL,
        secret="password",
        flag="--redis-url",
    )
    prefix: str = setting("grizz", "begins every key, so that several installations can share a Redis", form=PREFIX)
    tls_ca_file: str = setting("", "certificates that may sign the server's; empty trusts what the system trusts")
    tls_cert_file: str = setting("", "certificate this process shows the server")
    tls_key_file: str = setting("", "key of that certificate")
    flush_ms: int = setting(250, "longest time events wait for others on their way to another process", low=20)
    monthly_command_budget: int = setting(0, "commands a month may cost; 0 means no limit", high=10**12)
    price_per_100k: float = setting(0.2, "price of 100,000 commands, for the projected cost on /metrics", high=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """The built-in model, for first runs and tests."""

    enabled: bool = setting(False, "let the demo model answer even if a key or base URL is set", flag="--demo")
    tokens_per_second: float = setting(40.0, "how fast the demo model answers", low=0.1, high=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """A model on this machine, in a process that Grizz starts and ends; `make run-local` has what it needs."""

    enabled: bool = setting(False, "let a local model answer, whatever upstreams are set", flag="--local")
    model_file: str = setting("", "GGUF file of the local model; empty is a very small one", flag="--model-file")
    context_tokens: int = setting(4096, "how long a conversation with it may become", low=256, high=1 << 20)
    threads: int = setting(0, "threads that compute; 0 takes half of the cores", high=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting. `Settings()` is all defaults; only what `load` returns has been validated."""

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    workers: WorkerSettings = WorkerSettings()
    queue: QueueSettings = QueueSettings()
    limits: LimitSettings = LimitSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    models: ModelSettings = ModelSettings()
    replies: ReplySettings = ReplySettings()
    history: HistorySettings = HistorySettings()
    log: LogSettings = LogSettings()
    redis: RedisSettings = RedisSettings()
    demo: DemoSettings = DemoSettings()
    local: LocalSettings = LocalSettings()
    upstreams: Mapping[str, UpstreamSettings] = field(default_factory=dict)
    keys: Mapping[str, KeySettings] = field(default_factory=dict)

    @property
    def uses_demo(self) -> bool:
        """Whether the demo model answers: on demand, or because there is nothing else to ask."""
        if self.local.enabled:
            return False
        return self.demo.enabled or not (self.upstreams or self.upstream.api_key or self.upstream.base_url)

    @property
    def has_accounts(self) -> bool:
        """Whether clients can say who they are, by an API key or a token."""
        return bool(self.keys or self.auth.jwt_secret or self.auth.jwt_keys)


# Tables of which there may be many, each with a name: [upstreams.NAME].
TABLES: dict[str, type] = {"upstreams": UpstreamSettings, "keys": KeySettings}

SECTIONS: dict[str, type] = {item.name: type(item.default) for item in fields(Settings) if item.name not in TABLES}


def _declared(prefix: str, section: type, other: str) -> dict[str, Setting]:
    return {
        (key := f"{prefix}.{item.name}"): Setting(key=key, default=item.default, **item.metadata)
        for item in fields(section)
        if item.metadata.get("only") != other
    }


SETTINGS: dict[str, Setting] = {}
for _name, _section in SECTIONS.items():
    SETTINGS |= _declared(_name, _section, "table")


def entry(table: str, name: str) -> dict[str, Setting]:
    """The settings of one named table, such as [upstreams.backup], by their dotted keys."""
    return _declared(f"{table}.{name}", TABLES[table], "section")
