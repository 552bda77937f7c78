from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grizz.telemetry import logs

ROOT = Path(__file__).parents[2]
log = logging.getLogger("grizz.test")

Start = Callable[..., tuple[logs.LogPipe, io.StringIO]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gate(io.StringIO):
    """A stream that takes nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.opened = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.opened.wait(20)
        return super().write(text)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("grizz")
    before = root.level, own.level, list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if isinstance(handler, logs.LogPipe)]:
        handler.close()
    root.handlers[:] = before[2]
    root.setLevel(before[0])
    own.setLevel(before[1])


def written(act: Callable[[], None], level: str = "info", fmt: str = "json", stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    with logs.setup(level, fmt, stream):
        act()
    return stream.getvalue()


def one(act: Callable[[], None]) -> dict[str, Any]:
    (line,) = written(act).splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


# Shape


def test_a_json_line_has_time_level_logger_event_and_the_extra_fields():
    line = one(lambda: log.info("job %s", "settled", extra={"job": "resp_1", "attempt": 2, "ok": True, "err": None}))
    ts = line.pop("ts")
    assert line == {
        "level": "info",
        "logger": "grizz.test",
        "event": "job settled",
        "job": "resp_1",
        "attempt": 2,
        "ok": True,
        "err": None,
    }
    assert len(ts) == len("2026-01-01T00:00:00.000Z") and ts[10] == "T" and ts.endswith("Z")


def test_extra_fields_named_like_ours_do_not_replace_them():
    line = one(lambda: log.info("said", extra={"event": "response.created", "level": 3}))
    assert (line["event"], line["event_"], line["level"], line["level_"]) == ("said", "response.created", "info", 3)


def test_what_json_cannot_hold_becomes_text():
    class Odd:
        def __str__(self) -> str:
            raise OSError("no")

    fields = {"where": Path("/a"), "nan": float("nan"), "parts": {"b"}, "deep": {1: (2, b"3")}, "odd": Odd()}
    line = one(lambda: log.info("said", extra=fields))
    assert (line["where"], line["nan"], line["parts"], line["deep"]) == ("/a", "nan", ["b"], {"1": [2, "b'3'"]})
    assert line["odd"] == "<Odd: OSError when shown>"


def test_a_value_that_contains_itself_does_not_end_the_program():
    loop: list[object] = []
    loop.append(loop)
    assert one(lambda: log.info("said", extra={"loop": loop}))["event"] == "said"


def test_fields_are_those_at_the_time_of_logging():
    fields = {"a": 1}

    def act() -> None:
        log.info("said", extra={"fields": fields})
        fields["a"] = 2

    assert one(act)["fields"] == {"a": 1}


def fail() -> None:
    try:
        raise ValueError("with Bearer hunter2 in it")
    except ValueError:
        log.exception("failed", extra={"job": "resp_1"})


def test_an_exception_is_one_field_in_json():
    line = one(fail)
    assert line["event"] == "failed"
    assert line["exc"].startswith("Traceback") and line["exc"].endswith("ValueError: with Bearer *** in it")


def test_an_exception_is_a_traceback_below_the_line_in_text():
    first, *trace = written(fail, fmt="text").splitlines()
    assert first.endswith("failed job=resp_1")
    assert trace[0] == "  Traceback (most recent call last):"
    assert trace[-1] == "  ValueError: with Bearer *** in it"


def test_a_text_line_has_time_level_message_and_fields():
    text = written(lambda: log.warning("job settled", extra={"job": "resp_1", "why": "a b", "n": 2}), fmt="text")
    time, level, rest = text.rstrip("\n").split(maxsplit=2)
    assert len(time) == len("12:34:56.789")
    assert (level, rest) == ("warning", 'job settled job=resp_1 why="a b" n=2')


def test_a_text_line_of_another_library_names_its_logger():
    text = written(lambda: logging.getLogger("aiohttp.server").error("oh"), fmt="text")
    assert text.endswith("oh logger=aiohttp.server\n")


def test_no_value_can_forge_a_line_or_colour_a_terminal():
    text = written(lambda: log.info("a\nb\x1b[2J", extra={"c": "d\r\ne\x9b"}), fmt="text")
    assert text.count("\n") == 1
    assert not any(char < " " or "\x7f" <= char < "\xa0" for char in text.rstrip("\n"))
    assert one(lambda: log.info("a\nb"))["event"] == "a\nb"


def test_auto_is_text_on_a_terminal_and_json_elsewhere(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert written(lambda: log.info("said"), fmt="auto").startswith("{")
    assert "\x1b[32minfo   \x1b[0m said\n" in written(lambda: log.info("said"), fmt="auto", stream=Terminal())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(monkeypatch, name, value):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert "\x1b" not in written(lambda: log.info("said", extra={"a": 1}), fmt="auto", stream=Terminal())


def test_text_into_a_file_has_no_colours():
    assert "\x1b" not in written(lambda: log.info("said"), fmt="text")


# Levels


def test_the_level_holds_for_our_records_and_others_speak_from_warning_up():
    def act() -> None:
        log.debug("ours")
        logging.getLogger("openai").debug("a whole request")
        logging.getLogger("openai").info("another")
        logging.getLogger("openai").warning("theirs")

    assert [json.loads(line)["event"] for line in written(act, level="debug").splitlines()] == ["ours", "theirs"]
    assert written(lambda: log.info("ours"), level="warning") == ""
    assert written(lambda: logging.getLogger("openai").warning("theirs"), level="error") == ""


# Secrets


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/responses?ticket=hunter2&x=1",
        "ticket=hunter2",
        "api_key=hunter2",
        "api_key: hunter2",
        "{'api_key': 'hunter2'}",
        '{"api-key": "hunter2"}',
        "OPENAI_API_KEY=hunter2",
        "Authorization: Bearer hunter2",
        "bearer  hunter2",
        "realtime, openai-insecure-api-key.hunter2, x",
        "sk-hunter2",
        "Incorrect API key provided: sk-proj-hunter2.",
        "redis://me:hunter2@127.0.0.1",
        "redis://:hunter2@127.0.0.1",
    ],
)
def test_secrets_never_reach_the_output(fmt, text):
    def act() -> None:
        log.info(text)
        log.info("%s", text)
        log.info("said", extra={"url": text, "deep": {"list": [text], text: 1}, "object": ValueError(text)})
        log.info("said", stack_info=True, extra={"path": (text,)})
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            log.exception("failed: %s", error)

    output = written(act, fmt=fmt)
    assert "hunter2" not in output
    assert "***" in output


@pytest.mark.parametrize("name", ["api_key", "apikey", "OPENAI_API_KEY", "ticket", "password", "cookie"])
def test_fields_named_like_secrets_are_not_shown(name):
    assert "hunter2" not in written(lambda: log.info("said", extra={name: "hunter2", "deep": {name: ["hunter2"]}}))


@given(st.data())
def test_no_text_with_a_secret_passes_for_an_innocent_one(data):
    pattern, _ = data.draw(st.sampled_from(logs._SECRETS))
    text = data.draw(st.text(max_size=5)) + data.draw(st.from_regex(pattern)) + data.draw(st.text(max_size=5))
    expected = text
    for each, replacement in logs._SECRETS:
        expected = each.sub(replacement, expected)
    assert logs.redact(text) == expected


def test_what_is_no_secret_stays():
    text = "task-123 disk-full of ticketing at http://127.0.0.1:8000/v1 with 3 tokens"
    assert one(lambda: log.info(text, extra={"max_tokens": 5}))["event"] == text


def test_arguments_that_do_not_fit_are_not_shown(capfd):
    stream = io.StringIO()
    with logs.LogPipe(stream, logs.JsonFormatter()) as pipe:
        pipe.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "%d jobs", "args": ("hunter2",)}))
    assert json.loads(stream.getvalue())["event"] == "%d jobs (its arguments do not fit)"
    assert "hunter2" not in "".join(capfd.readouterr())


# The way out


class Counting(io.StringIO):
    """A stream that counts what is written to it."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def test_lines_that_come_together_are_written_together():
    stream = Counting()
    written(lambda: [log.info("n") for _ in range(100)] and None, stream=stream)
    assert len(stream.getvalue().splitlines()) == 100
    assert stream.writes <= 10


def test_a_piece_is_no_longer_than_what_a_pipe_keeps_whole():
    pieces: list[str] = []

    class Pieces(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return super().write(text)

    written(lambda: [log.info("€" * n) for n in range(0, 3000, 50)] and None, fmt="text", stream=Pieces())
    assert all(piece.endswith("\n") for piece in pieces)
    assert all(len(piece.encode()) <= 4096 or piece.count("\n") == 1 for piece in pieces)


def test_a_line_that_the_stream_does_not_take_costs_no_other(capfd):
    class Picky(io.StringIO):
        def write(self, text: str) -> int:
            if "bad" in text:
                raise OSError("no")
            return super().write(text)

    events = written(lambda: [log.info("bad" if n == 7 else f"{n}") for n in range(20)] and None, stream=Picky())
    assert [json.loads(line)["event"] for line in events.splitlines()] == [str(n) for n in range(20) if n != 7]


def test_what_waits_is_written_by_who_ends_the_process_at_once(monkeypatch):
    monkeypatch.setattr(logs, "GATHER_S", 60)
    stream = io.StringIO()
    with logs.setup("info", "json", stream):
        log.info("last words")
        logs.finish(20)
        assert json.loads(stream.getvalue())["event"] == "last words"


def test_a_warning_is_written_at_once_with_what_came_before_it(monkeypatch):
    monkeypatch.setattr(logs, "GATHER_S", 60)
    stream = Gate()
    stream.opened.set()
    with logs.setup("info", "json", stream):
        log.info("first")
        assert not stream.reached.wait(0.2)
        log.warning("second")
        assert stream.reached.wait(20)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "second"]


def test_stop_writes_everything_that_was_logged():
    events = written(lambda: [log.info("n", extra={"n": n}) for n in range(5000)] and None).splitlines()
    assert [json.loads(line)["n"] for line in events] == list(range(5000))


def test_logging_does_not_wait_for_a_stuck_stream_and_what_is_dropped_is_counted_and_told():
    gate = Gate()
    pipe = logs.LogPipe(gate, logs.JsonFormatter(), max_records=5)
    try:
        pipe.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "first"}))
        assert gate.reached.wait(20)
        for n in range(8):
            pipe.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "more", "n": n}))
        assert pipe.dropped == 3
    finally:
        gate.opened.set()
        pipe.stop()
    lines = [json.loads(line) for line in gate.getvalue().splitlines()]
    assert [line.get("n") for line in lines] == [None, 0, 1, 2, 3, 4, None]
    assert lines[-1]["event"] == "log queue was full, records dropped"
    assert (lines[-1]["level"], lines[-1]["records"]) == ("warning", 3)


def test_stop_gives_up_on_a_stuck_stream_and_counts_what_is_left():
    gate = Gate()
    pipe = logs.LogPipe(gate, logs.JsonFormatter(), max_records=2)
    pipe.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "first"}))
    assert gate.reached.wait(20)
    for _ in range(2):
        pipe.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "more"}))
    pipe.stop(timeout_s=0.05)
    pipe.handle(logging.makeLogRecord({"levelno": logging.INFO, "msg": "late"}))
    assert pipe.dropped == 4
    gate.opened.set()


def test_what_is_logged_after_stop_is_written_at_once():
    stream = io.StringIO()
    pipe = logs.setup("info", "json", stream)
    log.info("first")
    pipe.stop()
    pipe.stop()
    log.info("api_key=hunter2")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "api_key=***"]


def test_threads_that_log_while_it_stops_lose_nothing():
    stream = io.StringIO()
    pipe = logs.setup("info", "json", stream)
    started = threading.Barrier(5)

    def work(name: int) -> None:
        started.wait()
        for n in range(500):
            log.info("said", extra={"who": name, "n": n})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    pipe.stop()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for name in range(4):
        assert [line["n"] for line in lines if line["who"] == name] == list(range(500))


def test_a_second_setup_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    logs.setup("info", "json", first)
    log.info("one")
    with logs.setup("info", "json", second):
        log.info("two")
    assert json.loads(first.getvalue())["event"] == "one"
    assert json.loads(second.getvalue())["event"] == "two"


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise ValueError"])
def test_a_program_that_ends_without_stop_loses_nothing(end):
    script = (
        "import logging; from grizz.telemetry import logs\n"
        "logs.setup('info', 'json')\n"
        "for n in range(3000): logging.getLogger('grizz.x').info('said')\n" + end
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=30
    )
    assert done.stderr.count(b'"event": "said"') == 3000


def test_without_a_standard_error_it_starts_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with logs.setup("info", "auto"):
        log.warning("to nobody")
