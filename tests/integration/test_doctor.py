"""`python grizz.py doctor` against real servers, healthy ones and sick ones: what it finds, and what it says to do."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import orjson
import pytest
import trustme

from grizz.cli import main
from grizz.doctor import machine
from grizz.transport.sqlite.file import Lock, open_database
from grizz.upstream.demo import DemoServer
from tests.conftest import ROOT
from tests.raw_upstream import HEADERS, Call, raw_upstream, word
from tests.several import dead_url

Found = dict[str, tuple[str, str, str]]
SECRET = "sk-a-secret-of-the-operator"


class Examined:
    """What came of one run: the exit status, the output, and the findings by what they are about."""

    def __init__(self, status: int, output: str) -> None:
        self.status = status
        self.output = output
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        self.found: Found = {row["about"]: (row["state"], row["text"], row["advice"]) for row in rows}

    def upstream(self, what: str) -> tuple[str, str, str]:
        """A finding about the one upstream there is."""
        return self.found[f"upstream 127.0.0.1: {what}"]


async def doctor(*arguments: str, **environ: str) -> Examined:
    """Run the command in this process, in a thread of its own, since it has a loop of its own."""
    output = io.StringIO()
    if "--redis-url" in arguments or "GRIZZ_REDIS_URL" in environ:
        environ["GRIZZ_HISTORY_STORE"] = "redis"
    with mock.patch.dict(os.environ, environ), redirect_stdout(output), redirect_stderr(output):
        status = await asyncio.to_thread(main, ["doctor", "--json", "--port", "0", *arguments])
    return Examined(status, output.getvalue())


async def test_a_sound_installation_has_nothing_bad_and_ends_with_0() -> None:
    demo = DemoServer(tokens_per_second=0)
    await demo.start()
    seen = await doctor(OPENAI_BASE_URL=demo.url, OPENAI_API_KEY=SECRET)
    await demo.stop()
    assert seen.status == 0, seen.output
    assert {state for state, _, _ in seen.found.values()} <= {"ok", "note"}
    for about in ("python", "packages", "settings", "port", "files", "clock", "access"):
        assert about in seen.found
    assert seen.upstream("models")[1] == "grizz-demo; grizz-demo answers when a request names none"
    assert seen.upstream("chat")[1].startswith("grizz-demo streams, the first word after ")
    assert seen.upstream("usage")[1] == "reported in the stream"
    assert seen.upstream("tools")[:2] == ("ok", "it calls functions")
    assert seen.upstream("keep-alive")[1] == "connections are kept open"
    assert "tokens" in seen.upstream("cost")[1]
    assert SECRET not in seen.output
    assert "environment OPENAI_BASE_URL" in seen.found["settings"][1]


async def test_for_people_it_says_in_words_what_to_do() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "grizz.py"), "doctor", "--port", "0"),
        env={**os.environ, "OPENAI_BASE_URL": dead_url()},
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 1
    assert "BAD   upstream 127.0.0.1: connection: nobody listens on 127.0.0.1 port " in output
    assert "→ start the model server, or check the port in [upstream] base_url" in output
    assert output.rstrip().endswith("one thing is wrong")


async def test_a_bad_setting_is_named_and_ends_with_2() -> None:
    seen = await doctor("--drain-timeout", "soon")
    assert seen.status == 2
    assert "server.drain_timeout_s" in seen.output


async def test_without_any_upstream_it_says_how_to_get_one() -> None:
    state, text, advice = (await doctor()).found["upstream"]
    assert (state, text) == ("note", "the demo model answers")
    assert "OPENAI_API_KEY" in advice


async def test_a_taken_port_and_few_files_are_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        seen = await doctor("--offline", "--port", str(taken.getsockname()[1]), GRIZZ_LIMITS_CONNECTIONS="900000000")
    assert seen.found["port"][0] == "bad"
    state, text, advice = seen.found["files"]
    assert state == "note"
    assert "limits.connections = 900000000" in text
    assert "limits.connections = " in advice


@pytest.mark.parametrize(("days", "state"), [(300, "ok"), (5, "note"), (-1, "bad")])
async def test_a_certificate_is_told_to_be_renewed_before_it_expires(tmp_path: Path, days: int, state: str) -> None:
    issued = trustme.CA().issue_cert("grizz.example", not_after=datetime.now(UTC) + timedelta(days=days))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = {"CERT": tmp_path / "cert.pem", "KEY": tmp_path / "key.pem"}
    environ = {f"GRIZZ_SERVER_TLS_{name}_FILE": str(path) for name, path in files.items()}
    assert (await doctor("--offline", **environ)).found["certificate"][0] == state


def test_a_package_is_held_against_the_bounds_it_has_to_keep() -> None:
    assert [machine._fits("3.14.5", bound) for bound in (">=3.14.3", "<3.15", ">=3.15", "<3.14")] == [
        *(True, True),
        *(False, False),
    ]


async def test_a_model_file_that_is_not_there_is_found_without_asking_anybody(tmp_path: Path) -> None:
    examined = await doctor("--offline", "--local", "--model-file", str(tmp_path / "none.gguf"))
    state, text, _ = examined.found["local model"]
    assert (examined.status, state) == (1, "bad")
    assert "none.gguf" in text or "xllamacpp" in text  # the extra may not be installed


async def test_the_historys_file_is_looked_at_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state" / "grizz.db"

    async def found(**environ: str) -> tuple[str, str]:
        settings = {"GRIZZ_HISTORY_STORE": "sqlite", "GRIZZ_HISTORY_PATH": str(path), **environ}
        return (await doctor("--offline", **settings)).found["history"][:2]

    assert await found() == ("ok", f"in {path}, which the first start makes; 0.0 MiB of 1,024")
    assert not path.parent.exists()
    path.parent.mkdir()
    lock = Lock(path)
    assert lock.take()
    open_database(path).close()
    assert "in use by a server" in (await found())[1]
    lock.give_back()
    assert "in no use" in (await found())[1]
    path.write_bytes(b"no database at all, but long enough to have a head" * 100)
    state, text = await found()
    assert (state, "not a database" in text) == ("bad", True)
    assert (await found(GRIZZ_HISTORY_STORE="auto"))[0] == "note"
    assert await found(GRIZZ_HISTORY_STORE="memory") == ("ok", "in memory, gone with the process")


# Upstreams


class Odd:
    """A server with one oddity, by path."""

    def __init__(self, answers: dict[str, tuple[str, bytes]]) -> None:
        self.answers = answers

    async def behave(self, call: Call) -> None:
        for path, (line, body) in self.answers.items():
            if path in call.head:
                if line == "stream":
                    await call.raw(HEADERS)
                    await call.part(body)
                    await call.raw(b"0\r\n\r\n")
                else:
                    await call.status(line, body)
                return
        await call.status("404 Not Found", b'{"error":{"message":"no such path"}}')


async def examine(answers: dict[str, tuple[str, bytes]], **environ: str) -> Examined:
    async with raw_upstream(Odd(answers).behave, every=True) as (_, url):
        return await doctor(OPENAI_BASE_URL=url, OPENAI_MODEL="m", OPENAI_API_KEY=SECRET, **environ)


def events(*bodies: dict[str, object]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(body) + b"\n\n" for body in bodies)


ITEM = {"type": "response.output_item.added", "output_index": 0, "sequence_number": 1, "item": {}}
WHOLE = events(
    {"type": "response.created", "sequence_number": 0, "response": {}},
    ITEM,
    {"type": "response.completed", "sequence_number": 2, "response": {"usage": {"total_tokens": 7}}},
)
LIST = ("200 OK", b'{"data":[{"id":"m"}]}')


async def test_a_refused_key_is_named_by_its_variable_and_not_shown() -> None:
    said = b'{"error":{"message":"Incorrect API key: ' + SECRET.encode() + b'"}}'
    seen = await examine({"/models": ("401 No", said)})
    assert seen.status == 1
    assert seen.upstream("key") == ("bad", "refused (401)", "set OPENAI_API_KEY to a key of this API")
    assert SECRET not in seen.output


async def test_a_secret_that_the_server_repeats_is_not_shown() -> None:
    said = b'{"error":{"message":"no account for ' + SECRET.encode() + b'"}}'
    seen = await examine({"/models": LIST, "/chat": ("403 No", said)})
    assert seen.upstream("chat")[1] == "refused (403): no account for ***"


async def test_a_server_that_loads_its_model_is_waited_for_says_the_doctor() -> None:
    seen = await examine({"/models": ("503 Wait", b'{"error":{"message":"Loading model"}}')})
    assert seen.upstream("models")[:2] == ("bad", "it is not ready yet: Loading model")
    assert "30 s (loading_timeout_s)" in seen.upstream("models")[2]


async def test_who_speaks_responses_alone_gets_the_line_to_set() -> None:
    seen = await examine({"/models": LIST, "/responses": ("stream", WHOLE)})
    assert seen.upstream("responses") == (
        "bad",
        "it speaks the Responses API, and no Chat Completions",
        'set [upstream] api = "responses"',
    )


async def test_who_speaks_responses_alone_and_is_asked_so_is_sound_under_a_name_and_without_one() -> None:
    seen = await examine({"/models": LIST, "/responses": ("stream", WHOLE)}, GRIZZ_UPSTREAM_API="responses")
    assert seen.status == 0, seen.output
    assert seen.upstream("chat")[:2] == ("ok", "not spoken, and not needed")
    async with raw_upstream(Odd({"/models": LIST, "/responses": ("stream", WHOLE)}).behave, every=True) as (_, url):
        seen = await doctor(
            GRIZZ_UPSTREAMS_MAIN_BASE_URL=url, GRIZZ_UPSTREAMS_MAIN_API="responses", GRIZZ_UPSTREAMS_MAIN_MODELS="m"
        )
    assert seen.status == 0, seen.output
    assert seen.found["upstream main: responses"][1] == 'spoken, and passed through (api = "responses")'


async def test_a_server_that_refuses_functions_is_noted_with_what_such_servers_need() -> None:
    odd = Odd({"/models": LIST, "/chat": ("stream", word("OK"))})
    said = b'{"error":{"message":"auto tool choice requires a flag"}}'

    async def behave(call: Call) -> None:
        await (call.status("400 No", said) if b'"tools"' in call.body else odd.behave(call))

    async with raw_upstream(behave, every=True) as (_, url):
        seen = await doctor(OPENAI_BASE_URL=url, OPENAI_MODEL="m")
    state, text, advice = seen.upstream("tools")
    assert (state, text) == ("note", "functions are refused (400): auto tool choice requires a flag")
    assert "--enable-auto-tool-choice" in advice
    seen = await examine({"/models": LIST, "/chat": ("stream", word("OK"))})
    assert seen.upstream("tools")[:2] == ("ok", "functions are taken, though it called none when asked to")


async def test_who_speaks_both_may_be_passed_through() -> None:
    seen = await examine({"/models": LIST, "/chat": ("stream", word("OK")), "/responses": ("stream", WHOLE)})
    assert seen.status == 0
    state, text, advice = seen.upstream("responses")
    assert (state, text) == ("ok", "it speaks the Responses API itself")
    assert advice.startswith('[upstream] api = "responses"')
    assert seen.upstream("cost")[1] == "these questions cost about 7 tokens"
    assert seen.upstream("usage")[0] == "note"  # not in the stream of chat


async def test_events_without_their_numbers_are_no_responses_api_to_pass_through() -> None:
    poor = events({"type": "response.created", "response": {}}, {"type": "response.completed", "response": {}})
    seen = await examine({"/models": LIST, "/chat": ("stream", word("OK")), "/responses": ("stream", poor)})
    state, text, advice = seen.upstream("responses")
    assert text == "it speaks the Responses API in part: its events lack sequence_number, response.output_item.added"
    assert (state, advice) == ("ok", 'leave [upstream] api = "chat"')


async def test_a_model_that_is_not_listed_and_a_base_url_without_its_end_are_noted() -> None:
    seen = await examine({"/models": ("200 OK", b'{"data":[{"id":"other"}]}'), "/chat": ("stream", word("OK"))})
    assert seen.upstream("models")[:2] == ("note", "m is not among other")
    demo = DemoServer(tokens_per_second=0)
    await demo.start()
    seen = await doctor(OPENAI_BASE_URL=demo.url.removesuffix("/v1"))
    await demo.stop()
    assert seen.upstream("models")[2] == f"base_url should probably be {demo.url}"


async def test_an_answer_that_is_no_stream_is_told_from_one() -> None:
    seen = await examine({"/models": LIST, "/chat": ("200 OK", b"{}")})
    assert seen.upstream("chat")[1] == "no stream of events came, but application/json"


async def test_each_of_several_upstreams_is_examined_by_its_name() -> None:
    demo = DemoServer(tokens_per_second=0)
    await demo.start()
    seen = await doctor(
        GRIZZ_UPSTREAMS_MAIN_BASE_URL=demo.url,
        GRIZZ_UPSTREAMS_MAIN_MODELS="best=grizz-demo",
        GRIZZ_UPSTREAMS_SPARE_BASE_URL=dead_url(),
    )
    await demo.stop()
    assert seen.found["upstream main: chat"][0] == "ok"
    assert seen.found["upstream spare: connection"][0] == "bad"
