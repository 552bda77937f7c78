"""Every metric Grizz exports, in one object with its own registry.

Label children are bound at start, so that counters begin at 0 and nothing on the hot path looks a label up. Models and
upstreams come from the settings, anything else is `other`: a client cannot grow the number of series, and the settings
cannot grow it beyond `series.ROOM`.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Sequence

import aiohttp
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from grizz.telemetry.gaps import GapHistogram, Gaps
from grizz.telemetry.series import OTHER, own_names
from grizz.telemetry.spread import Spread, SpreadCollector

disable_created_metrics()  # type: ignore[no-untyped-call]  # they add 13 % of series that nobody reads

OUTCOMES = ("ok", "length", "cancelled", "timeout", "error", "dead")
REJECTIONS = ("queue_full", "rate_limited", "draining", "unavailable", "too_large", "locked", "invalid")
UPSTREAM_RESULTS = (
    *("2xx", "400", "401", "403", "404", "429", "5xx", "connect", "busy", "truncated", "too_long", "cancelled"),
    *("timeout_first", "timeout_idle", "timeout_total"),
)
RETRY_REASONS = ("429", "5xx", "timeout", "connect", "truncated")
BREAKER_STATES = ("closed", "open", "half_open")
CONNECT_RESULTS = ("accepted", "origin", "auth", "capacity", "bad")
# Who closes with which code; what else clients may say is no label, or they would make as many as there are numbers.
CLOSES = {
    "server": ("1000", "1001", "1008", "1009", "1011", "1012", "1013", OTHER),
    "client": ("1000", "1001", OTHER),
    "network": ("1006",),
}
DROPS = ("write_stall", "heartbeat", "protocol")
REDIS_COMMANDS = (
    *"auth del exists expire get hdel hgetall hmget hset incrby info mget publish pubsub renamenx".split(),
    *"select set subscribe xack xdelex xadd xclaim xdel xgroup xinfo xlen xpending xrange xreadgroup".split(),
    OTHER,
)
REDIS_ERRORS = ("down", "full", "quota", "login", "lost", "command", "message", "overflow")
REDIS_BREAKERS = ("down", "quota", "login", "lost")
HISTORY_ERRORS = ("write", "read", "overflow")
RESUMES = ("ok", "gap", "expired", "unknown")

_FIRST_TOKEN = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60)
_QUEUE_WAIT = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300)
_DURATION = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_LAG = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
_REPLAYED = (0, 1, 5, 20, 50, 100, 250, 500, 1000)
_ROUND_TRIP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The metrics of one process.

    Args:
        version: of Grizz.
        mode: memory or redis.
        models: names that have series of their own, while there is room; all else is `other`.
        upstreams: the same, the most important first.
    """

    def __init__(self, *, version: str, mode: str, models: Sequence[str], upstreams: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self._rendering = asyncio.Lock()
        self._on_scrape: list[tuple[Gauge, Callable[[], float]]] = []
        own = own_names(models, upstreams)
        self._models = dict.fromkeys((*own.models, OTHER))
        self._upstreams = {name: name if name in own.upstreams else OTHER for name in upstreams}
        self._states = dict.fromkeys(upstreams, "closed")
        # Beside the histograms of the same, whose few buckets are made for scrapes.
        self.spreads = {name: Spread() for name in ("first_token", "queue", "upstream", "delivery", "lag")}
        self._process()
        self._clients()
        self._jobs()
        self._streams()
        self._models_asked()
        self._gauge("grizz_build_info", "What runs.", ("version", "python", "aiohttp", "mode")).labels(
            version, platform.python_version(), aiohttp.__version__, mode
        ).set(1)
        self.redis = RedisMetrics(self.registry, self._gauge, self._counter)
        self.on_scrape(self.redis.per_reply, self._commands_per_reply)
        self.history = HistoryMetrics(self._gauge, self._counter)

    def model(self, name: str) -> str:
        """The label value for a model."""
        return name if name in self._models else OTHER

    def upstream(self, name: str) -> str:
        """The label value for an upstream."""
        return self._upstreams.get(name, OTHER)

    def _process(self) -> None:
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.ready = self._gauge("grizz_ready", "1 when /readyz says so, 0 while starting or draining.")
        self.loop_lag = self._histogram(
            "grizz_event_loop_lag_seconds", "How late a 100 ms ticker of the event loop was.", _LAG
        )
        self.unhandled_errors = self._counter(
            "grizz_unhandled_errors_total", "Errors nobody expected.", where=("handler", "worker", "task", "loop")
        )

    def _clients(self) -> None:
        self.connections = self._gauge("grizz_connections_open", "Open WebSocket connections.")
        self.connects = self._counter("grizz_connections_total", "Upgrade attempts.", result=CONNECT_RESULTS)
        self.outbox = self._gauge("grizz_outbox_bytes", "What waits for clients to take it, of all WebSockets.")
        self._closes = self._counter("grizz_connection_closes_total", "Closed sockets.", ("by", "code"))
        for by, codes in CLOSES.items():
            for code in codes:
                self._closes.labels(by, code)
        self.drops = self._counter("grizz_client_drops_total", "Slow or dead clients cut off.", reason=DROPS)
        self.resumes = self._counter("grizz_resumes_total", "Resumptions; anything but ok lost data.", result=RESUMES)
        self.replayed = self._histogram("grizz_resume_replayed_events", "Events sent again at a resume.", _REPLAYED)

    def _jobs(self) -> None:
        models = tuple(self._models)
        self.submitted = self._counter("grizz_jobs_submitted_total", "Accepted work.", model=models)
        self.rejected = self._counter("grizz_jobs_rejected_total", "Refused work.", reason=REJECTIONS)
        self.finished = self._counter(
            "grizz_jobs_finished_total", "Ended responses; cancelled is no error.", model=models, outcome=OUTCOMES
        )
        self.running = self._gauge("grizz_jobs_running", "Answers being generated by this process.")
        self.slots = self._gauge("grizz_worker_slots", "Jobs this process runs at most at a time.")
        self.queue_depth = self._gauge("grizz_queue_depth", "Jobs waiting for a worker.", ("state",)).labels("ready")
        self.queue_age = self._gauge("grizz_queue_oldest_age_seconds", "Wait of the longest waiting job.")
        self.queue_wait = self._histogram("grizz_queue_wait_seconds", "Accepted to worker start.", _QUEUE_WAIT)
        self.dead_letters = self._counter(
            "grizz_dead_letters_total", "Jobs given up.", reason=("attempts", "poison", "expired")
        )
        self.attempts_lost = self._counter("grizz_attempts_lost_total", "Attempts whose lease ran out.")
        self.restarted = self._counter("grizz_answers_restarted_total", "Answers begun anew after words were shown.")
        self.kept_bytes = self._gauge("grizz_kept_bytes", "Bytes kept for readers.", ("what",))
        for what in ("replies", "history", "conversations"):
            self.kept_bytes.labels(what)

    def _streams(self) -> None:
        models = tuple(self._models)
        self.first_token = self._histogram(
            "grizz_time_to_first_token_seconds", "Accepted to first content delta.", _FIRST_TOKEN, model=models
        )
        self._gaps = GapHistogram(
            "grizz_inter_token_latency_seconds",
            "Gap between tokens from the upstream; those read at once share the time since the read before.",
            "model",
            models,
        )
        self.registry.register(self._gaps)
        self.duration = self._histogram("grizz_job_duration_seconds", "Accepted to ended.", _DURATION, model=models)
        self.tokens = self._counter(
            "grizz_tokens_total", "Tokens the upstream counted.", model=models, type=("input", "cached", "output")
        )
        self.events = self._counter("grizz_events_total", "Events appended to replies.")
        self.events_lost = self._counter("grizz_events_lost_total", "Numbers that were missing for a log or a reader.")
        self.events_doubled = self._counter("grizz_events_doubled_total", "Events that came again, and were dropped.")
        text = "Event in the reply's log to taken by the socket, once a write to a visible tab or a stream."
        self.registry.register(SpreadCollector("grizz_delivery_lag_seconds", text, self.spreads["delivery"]))
        self.delivered = self.spreads["delivery"].observe

    def _models_asked(self) -> None:
        names = tuple(dict.fromkeys(self._upstreams.values()))
        # Not by model as well: those two multiplied would be a third of all series, and the wait by model is above.
        self.first_chunk = self._histogram(
            "grizz_upstream_time_to_first_chunk_seconds",
            "Request sent to first content delta.",
            _FIRST_TOKEN,
            upstream=names,
        )
        self.upstream_requests = self._counter(
            "grizz_upstream_requests_total", "Requests, by how they ended.", upstream=names, result=UPSTREAM_RESULTS
        )
        self.upstream_retries = self._counter(
            "grizz_upstream_retries_total",
            "Tries repeated at the same upstream before the first token.",
            upstream=names,
            reason=RETRY_REASONS,
        )
        self.upstream_failovers = self._counter(
            "grizz_upstream_failovers_total", "Tries that failed there and went on at another upstream.", upstream=names
        )
        self.upstream_open = self._gauge("grizz_upstream_requests_open", "Requests being answered.", ("upstream",))
        self.upstream_pause = self._gauge("grizz_upstream_pause_seconds", "What is left of its pause.", ("upstream",))
        self._breaker_state = self._gauge(
            "grizz_breaker_state", "1 for the state an upstream's breaker is in.", ("upstream", "state")
        )
        self._breaker_transitions = self._counter(
            "grizz_breaker_transitions_total", "Changes of that state.", upstream=names, to=BREAKER_STATES
        )
        for name in names:
            self._show_breakers(name)

    def breaker(self, upstream: str, state: str) -> None:
        """The breaker of an upstream came into another state."""
        self._states[upstream] = state
        label = self.upstream(upstream)
        self._breaker_transitions.labels(label, state).inc()
        self._show_breakers(label)

    def _show_breakers(self, label: str) -> None:
        """Of several upstreams under one label, each state that one of them is in."""
        there = {state for name, state in self._states.items() if self.upstream(name) == label}
        for known in BREAKER_STATES:
            self._breaker_state.labels(label, known).set(int(known in there))

    def add_gaps(self, model: str, gaps: Gaps) -> None:
        """Add one stream's gaps to `grizz_inter_token_latency_seconds`."""
        self._gaps.add(self.model(model), gaps)

    def waited(self, seconds: float) -> None:
        """A job's worker starts, so long after the job was accepted."""
        self.queue_wait.observe(seconds)
        self.spreads["queue"].observe(seconds)

    def began(self, model: str, seconds: float) -> None:
        """The first content of a response is in its log, so long after it was accepted. `model` is a label value."""
        self.first_token.labels(model).observe(seconds)
        self.spreads["first_token"].observe(seconds)

    def closed(self, by: str, code: int) -> None:
        """A WebSocket has closed: by the server, the client or the network."""
        known = CLOSES[by]
        self._closes.labels(by, str(code) if str(code) in known else known[-1]).inc()

    def answered(self, upstream: str, seconds: float) -> None:
        """The first content came from an upstream, so long after it was asked."""
        self.first_chunk.labels(self.upstream(upstream)).observe(seconds)
        self.spreads["upstream"].observe(seconds)

    def late(self, seconds: float) -> None:
        """A tick of the event loop came so late."""
        self.loop_lag.observe(seconds)
        self.spreads["lag"].observe(seconds)

    def _commands_per_reply(self) -> float:
        return sum(self.redis.by_command.values()) / max(1, total(self.finished))

    def gaps(self) -> Gaps:
        """The gaps of all streams that have ended."""
        return self._gaps.all()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type; in a thread: a thousand series hold a loop for 20 ms (measured)."""
        for gauge, read in self._on_scrape:
            gauge.set(read())
        encoder, content_type = choose_encoder(accept)
        async with self._rendering:
            return await asyncio.to_thread(encoder, self.registry), content_type

    def on_scrape(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Let a gauge be read when it is scraped; on the event loop, before the rendering thread starts."""
        self._on_scrape.append((gauge, read))

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, names: tuple[str, ...] = (), **labels: tuple[str, ...]) -> Counter:
        """All combinations of these values are there from the start; those of bare `names` the caller makes."""
        counter = Counter(name, text, names or tuple(labels), registry=self.registry)
        if names:
            return counter
        for values in _product(list(labels.values())):
            counter.labels(*values)
        return counter

    def _histogram(self, name: str, text: str, buckets: Sequence[float], **labels: tuple[str, ...]) -> Histogram:
        histogram = Histogram(name, text, tuple(labels), buckets=buckets, registry=self.registry)
        for values in _product(list(labels.values())):
            histogram.labels(*values)
        return histogram


class HistoryMetrics:
    """What the file of the history counts; all zero without one.

    Attributes:
        counted: how many commits the counter has.
    """

    def __init__(self, gauge: Callable[..., Gauge], counter: Callable[..., Counter]) -> None:
        self.counted = 0
        self.commits = counter("grizz_history_commits_total", "Transactions written to the history's file.")
        self.errors = counter(
            "grizz_history_errors_total", "What the history's file did not take or give.", kind=HISTORY_ERRORS
        )
        self.bytes = gauge("grizz_history_file_bytes", "What of the history's file is in use.")
        self.waiting = gauge("grizz_history_waiting_bytes", "What waits to be written to it.")
        self.up = gauge("grizz_history_up", "1 while the history is kept in a file.")
        self.missing = gauge("grizz_history_missing", "1 when a file was to keep it, and only memory does.")


class RedisMetrics:
    """What the scaled mode counts; all zero in a process alone.

    Commands are labelled by a closed list of names, since those of the handshake differ between servers.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        gauge: Callable[..., Gauge],
        counter: Callable[..., Counter],
    ) -> None:
        self.by_command = dict.fromkeys(REDIS_COMMANDS, 0)
        self._commands = counter("grizz_redis_commands_total", "Commands sent.", command=REDIS_COMMANDS)
        self._children = {name: self._commands.labels(name) for name in REDIS_COMMANDS}
        self.errors = counter("grizz_redis_errors_total", "Failures of the way to Redis.", kind=REDIS_ERRORS)
        self.up = gauge("grizz_redis_up", "1 while Redis is in use, 0 while degraded to memory, or without Redis.")
        self._breaker = gauge("grizz_redis_breaker_open", "1 while nothing is sent, by cause.", ("cause",))
        for cause in REDIS_BREAKERS:
            self._breaker.labels(cause).set(0)
        self._round_trip = Histogram(
            "grizz_redis_command_duration_seconds",
            "Sent to answered, once for commands that go together.",
            buckets=_ROUND_TRIP,
            registry=registry,
        )
        self.took = self._round_trip.observe
        self.per_reply = gauge("grizz_redis_commands_per_reply", "Commands sent over answers that ended here.")
        self.dead_letters = gauge("grizz_dead_letters_kept", "Jobs given up that nobody has dropped or run again.")
        self.budget = gauge("grizz_redis_monthly_command_budget", "What a month may cost; 0 for no budget.")
        self.month = gauge("grizz_redis_projected_monthly_commands", "All nodes, if the last hour is typical.")
        self.cost = gauge("grizz_redis_projected_monthly_cost", "The price of that, in the currency of the settings.")
        self.thrift = gauge("grizz_redis_thrift", "0 none, 1 and 2 slower flushes, 3 new work stays local.")
        self.placed = counter("grizz_jobs_placed_total", "Where jobs ran.", place=("home", "elsewhere"))
        self.unrecorded = counter(
            "grizz_jobs_unrecorded_total", "Jobs that a crash would lose.", reason=("degraded", "size", "thrift")
        )
        self.takeovers = counter("grizz_takeovers_total", "Nodes whose responses this one took over.")
        self.adopted = counter("grizz_jobs_adopted_total", "Responses begun anew here, since their home was gone.")
        self.deposed = counter("grizz_deposed_total", "Times this node stood still and was taken over.")
        self.replays = counter("grizz_event_gaps_total", "Gaps between nodes that were closed by asking again.")
        self.stale = counter("grizz_stale_messages_total", "Messages of attempts that were not current any more.")

    def sent(self, command: str) -> None:
        """A command goes onto the wire."""
        known = command if command in self.by_command else "other"
        self.by_command[known] += 1
        self._children[known].inc()

    def breaker(self, cause: str | None) -> None:
        """The one cause for which nothing is sent; None while all is well."""
        for known in REDIS_BREAKERS:
            self._breaker.labels(known).set(int(known == cause))
        self.up.set(int(cause is None))


def total(metric: Counter | Gauge, **labels: tuple[str, ...]) -> int:
    """What a counter or gauge shows, of all series whose labels have one of these values; 1 to 2 µs for each."""
    (family,) = metric.collect()
    return int(
        sum(
            sample.value
            for sample in family.samples
            if all(sample.labels[name] in known for name, known in labels.items())
        )
    )


def _product(values: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    if not values:
        return []
    rows: list[tuple[str, ...]] = [()]
    for column in values:
        rows = [(*row, value) for row in rows for value in column]
    return rows
