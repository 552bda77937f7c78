"""Log lines: JSON or text, written by a thread so that a stuck pipe never stalls the event loop, without secrets.

A record takes its final shape where it is logged (the objects in it may change later), passes a bounded queue, and
is written by one thread. When the queue is full records are dropped, counted, and the count is logged once there is
room. Other libraries' loggers speak from `warning` up only: at lower levels some of them print whole requests.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

QUEUE_RECORDS = 10_000
# How long records of the lower levels wait for others, and how many are written at a time.
GATHER_S = 0.05
_AT_A_TIME = 200
# Several processes may share a stream: a pipe takes up to PIPE_BUF bytes in one piece (POSIX; 4,096 on Linux).
_WHOLE_BYTES = 4096
STOP_TIMEOUT_S = 5.0
MAX_DEPTH = 6

# What every record has; anything else on it came in as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED = frozenset({"ts", "level", "logger", "event", "exc"})
_SECRET_NAME = re.compile(r"(?i)api[_-]?key|ticket$|password|secret|authorization|cookie")
_SECRETS = (
    (re.compile(r"(?i)(openai-insecure-api-key\.)[^\s,;\"']+"), r"\1***"),
    (re.compile(r"(?i)(\bbearer\s+)[^\s,;\"']+"), r"\1***"),
    (re.compile(r"(?i)((?:api[_-]?key|ticket)[\\\"']*\s*[=:]\s*[\\\"']*)[^\s&,;\"']+"), r"\1***"),
    (re.compile(r"(?i)(grizz_(?:session|owner)=)[^\s,;\"']+"), r"\1***"),
    (re.compile(r"\bsk-[\w-]{3,}"), "sk-***"),
    (re.compile(r"\bgrizz-[\w-]{43}"), "grizz-***"),
    (re.compile(r"\beyJ[\w-]*\.[\w-]*\.[\w-]*"), "eyJ***"),
    (re.compile(r"(://[^\s:/@]*:)[^\s/]+@"), r"\1***@"),
)
# What none of them can match without. Eight searches of each text of each line were 4 % of a short answer's CPU
# (measured), and nearly every text has nothing to hide.
_SUSPICIOUS = re.compile(r"(?i)api|bearer|ticket|grizz[_-]|sk-|eyj|://[^\s:/@]*:")
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
_COLORS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


class _Nowhere(io.StringIO):
    """Takes everything and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def setup(level: str, fmt: str, stream: TextIO | None = None) -> LogPipe:
    """Send all logging to `stream` (standard error if None) from now on; replaces an earlier setup.

    Args:
        level: least important level of Grizz's own records, as in `log.level`.
        fmt: "json", "text", or "auto": text if `stream` is a terminal, else JSON.
        stream: where lines go; stays open.

    Returns:
        The pipe, also a context manager. Call its `stop` last, so that nothing is lost.
    """
    stream = stream or sys.stderr or _Nowhere()  # None: started with it closed, as some wrappers do
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, LogPipe)]:
        root.removeHandler(old)
        old.close()
    pipe = LogPipe(stream, formatter(fmt, stream))
    root.addHandler(pipe)
    own = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(own, logging.WARNING))
    logging.getLogger("grizz").setLevel(own)
    # Its one warning lists all subprotocols that a client offers, and tokens may be among them.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    return pipe


def finish(within_s: float) -> None:
    """Write what waits, for who ends the process at once; a stream that takes nothing is given up after `within_s`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogPipe):
            handler.stop(within_s)


def say_node(node: Callable[[], str]) -> None:
    """Put the short id of this process into each line from now on, as field `node`; it may change."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogPipe):
            handler.node = node


@contextlib.contextmanager
def unthreaded(level: str, fmt: str) -> Iterator[None]:
    """Log to standard error without a thread, for a process that forks; `setup` in a fork takes over."""
    stream = sys.stderr or _Nowhere()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(fmt, stream))
    own, root = logging.getLogger("grizz"), logging.getLogger()
    root.addHandler(handler)
    own.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)


def _is_ours(record: logging.LogRecord) -> bool:
    """Drops errors of aiohttp, tracebacks and all, that anybody can cause: bytes that are no HTTP, and going away."""
    theirs = HttpProcessingError | RequestPayloadError | ConnectionError
    return not (record.exc_info and isinstance(record.exc_info[1], theirs))


def formatter(fmt: str, stream: TextIO) -> logging.Formatter:
    """The formatter for `fmt` on `stream`. Colours only on a terminal, and not where NO_COLOR is set."""
    terminal = stream.isatty()
    if fmt == "json" or (fmt == "auto" and not terminal):
        return JsonFormatter()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return TextFormatter(color=terminal and not plain)


def redact(text: str) -> str:
    """`text` with keys, tickets, bearer tokens and passwords in URLs replaced by ***."""
    if _SUSPICIOUS.search(text):
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
    return text


class LogPipe(logging.Handler):
    """The way from a logger to the stream: shaped and redacted at once, written by a thread.

    The thread writes what came within `GATHER_S` at a time, a warning and worse at once: woken for each record it takes
    the interpreter from the event loop twice a line, which was a tenth of what a short answer costs (measured). A kill
    loses what waits.

    Attributes:
        dropped: records lost so far because the queue was full or the stream stuck.
        node: what each line says about which process it is of, or None.
    """

    def __init__(self, stream: TextIO, shape: logging.Formatter, max_records: int = QUEUE_RECORDS) -> None:
        super().__init__()
        self.dropped = 0
        self.node: Callable[[], str] | None = None
        self._told = 0
        self._max_records = max_records
        self._records: deque[logging.LogRecord] = deque()
        self._in_hand = 0
        self._some = threading.Event()
        self._urgent = threading.Event()
        self._stopped = False
        self._stream = stream
        self._shape = shape
        # Not a QueueListener: its stop fails on a full bounded queue, and waits forever for a stuck stream.
        self._writer = threading.Thread(target=self._write_all, name="grizz-logs", daemon=True)
        self._writer.start()

    def __enter__(self) -> LogPipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on without waiting; after `stop`, write it at once."""
        try:
            record = _prepared(record)
            if self.node is not None:
                record.node = self.node()
        except Exception:
            self.handleError(record)
            return
        if self._stopped and not self._writer.is_alive():
            self._write([record])
        elif self._stopped or len(self._records) >= self._max_records:
            self.dropped += 1
        else:
            self._records.append(record)
            if record.levelno >= logging.WARNING:
                self._urgent.set()
            if not self._some.is_set():  # to set it again takes a lock, 0.8 µs instead of 0.06 (measured)
                self._some.set()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Write all that is queued; what is logged later is written at once. May be called again.

        A stream that takes nothing for `timeout_s` seconds is given up, and what is left counted as dropped.
        """
        # Whoever logs meanwhile waits for this lock, so that lines stay in order.
        self.acquire()
        try:
            if self._stopped:
                return
            self._stopped = True
            self._urgent.set()
            self._some.set()
            self._writer.join(timeout_s)
            if self._writer.is_alive():
                self.dropped += len(self._records) + self._in_hand
        finally:
            self.release()

    def close(self) -> None:
        """Stop. `logging` calls this when the interpreter ends, whether or not anybody called `stop`."""
        self.stop()
        super().close()

    def _write_all(self) -> None:
        while not (self._stopped and not self._records):
            self._some.wait()
            self._urgent.wait(GATHER_S)
            # Before the queue is emptied: what comes from now on wakes this thread again.
            self._some.clear()
            if not self._stopped:
                self._urgent.clear()
            while self._records:
                batch = [self._records.popleft() for _ in range(min(len(self._records), _AT_A_TIME))]
                self._in_hand = len(batch)
                self._write(batch)
                self._in_hand = 0
            self._tell_dropped()

    def _write(self, records: list[logging.LogRecord]) -> None:
        """Write the lines of records, as many in one piece as stay whole beside those of other processes."""
        piece: list[tuple[logging.LogRecord, str]] = []
        size = 0
        for record in records:
            try:
                line = f"{self._shape.format(record)}\n"
            except Exception:
                self.handleError(record)
                continue
            length = len(line.encode(errors="replace"))
            if piece and size + length > _WHOLE_BYTES:
                self._write_piece(piece)
                piece, size = [], 0
            piece.append((record, line))
            size += length
        if piece:
            self._write_piece(piece)

    def _write_piece(self, piece: list[tuple[logging.LogRecord, str]]) -> None:
        try:
            self._stream.write("".join(line for _, line in piece))
            self._stream.flush()
        except Exception:
            if len(piece) == 1:
                self.handleError(piece[0][0])
                return
            for one in piece:  # one line that the stream does not take must not cost the others
                self._write_piece([one])

    def _tell_dropped(self) -> None:
        lost = self.dropped - self._told
        if lost:
            self._told += lost
            fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "records": lost}
            self._write([logging.makeLogRecord({"msg": "log queue was full, records dropped", **fields})])


def _prepared(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of `record` that holds nothing but redacted, final values."""
    message = redact(_message(record))
    record = logging.makeLogRecord(vars(record))
    record.msg, record.args = message, None
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    parts = [text for text in (record.exc_text, record.stack_info) if text]
    record.exc_text, record.exc_info, record.stack_info = redact("\n".join(parts)), None, None
    for name in vars(record).keys() - _OWN:
        setattr(record, name, _clean(getattr(record, name), name))
    return record


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC, ms), level, logger, event, the extra fields, exc."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record that `LogPipe` prepared."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        # An extra field may be called like one of ours: both stay readable.
        line |= {f"{name}_" if name in _RESERVED else name: value for name, value in _extra(record).items()}
        if record.exc_text:
            line["exc"] = record.exc_text
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """For people: local time, level, message, key=value; a traceback below. One line each, whatever is logged."""

    def __init__(self, *, color: bool = False) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record that `LogPipe` prepared, and its traceback."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = record.levelname.lower()
        extra = _extra(record)
        if record.name.partition(".")[0] != "grizz":
            extra["logger"] = record.name
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in extra.items())
        parts = [
            self._paint("2", moment),
            self._paint(_COLORS.get(level, "0"), f"{level:<7}"),
            record.getMessage().translate(_CONTROL),
            self._paint("2", fields),
        ]
        line = " ".join(part for part in parts if part)
        if record.exc_text:
            trace = "\n".join("  " + text.translate(_CONTROL) for text in record.exc_text.splitlines())
            line = f"{line}\n{trace}"
        return line

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color and text else text


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # What logging would do instead is to print the arguments, unredacted.
        return f"{record.msg} (its arguments do not fit)"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _clean(value: object, name: str, depth: int = 0) -> Any:
    """`value` as something JSON can hold, without secrets; what is nested too deeply becomes text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case _ if _SECRET_NAME.search(name):
            return "***"
        case str():
            return redact(value)
        case Mapping() if depth < MAX_DEPTH:
            return {redact(str(key)): _clean(item, str(key), depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
            return [_clean(item, name, depth + 1) for item in value]
    try:
        return redact(str(value))
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} when shown>"


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    plain = text and not re.search(r"[\s\"=]", text)
    return (text if plain or not isinstance(value, str) else json.dumps(text, ensure_ascii=False)).translate(_CONTROL)
