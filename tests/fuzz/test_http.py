"""Whatever a client asks for over HTTP: never a server's failure, and every refusal is one that SDKs can read."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, quote_from_bytes

import orjson
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from tests.fuzz.conftest import budget
from tests.fuzz.server import Target, check_refusal, fuzzed
from tests.fuzz.strategies import bodies, spelled, words

ids = st.one_of(
    words.map(lambda text: quote(text, safe="")),
    st.binary(max_size=6).map(lambda raw: quote_from_bytes(raw, safe="")),
    st.sampled_from(
        ["resp_0a1b2c3d0000", "resp_%ff", "..", "%2e%2e", "a%2Fb", "%", "%zz", "x" * 3000, ";", "~", "%00"]
    ),
)
queries = st.lists(
    st.tuples(
        st.sampled_from(
            ["stream", "starting_after", "order", "limit", "after", "include", "query", "metadata[a]", "x"]
        ),
        words.map(lambda text: quote(text, safe=""))
        | st.sampled_from(["true", "1", "-1", "100", "desc", "9" * 30, "%ff", "%C2%B2", "%D9%A3"]),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
# What an answer may be waited for where none may come.
SILENCE_S = 0.3
PATHS = ["/v1/responses", "/v1/responses/{}", "/v1/responses/{}/cancel", "/v1/responses/{}/input_items"]
PATHS += ["/v1/conversations", "/v1/conversations/{}", "/v1/conversations/conv_{}", "/v1/conversations/{}/items"]
PATHS += ["/v1/conversations/conv_1/items/{}"]
PATHS += ["/v1/models", "/v1/models/{}", "/v1/models/a/{}", "/v1/{}", "/{}", "/pages/{}"]
paths = st.builds(lambda path, name: path.format(name), st.sampled_from(PATHS), ids)
methods = st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"])
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=12)
headers = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "Accept", "Cookie", "X-Forwarded-For", "X-Forwarded-Proto", "X-Stainless-Retry-Count"]
    ),
    texts.map(str.strip).filter(str.isprintable),
    max_size=2,
)


async def ask(target: Target, method: str, path: str, query: str, body: bytes, extra: dict[str, str]) -> int:
    """One request; its status, once what came back was looked at."""
    url = URL(f"{target.grizz.url}{path}?{query}", encoded=True)
    async with target.http.request(method, url, data=body, headers=extra, allow_redirects=False) as answer:
        raw = await answer.read()
        kind = answer.content_type
    assert answer.status < 500, (answer.status, raw)
    if answer.status >= 400 and method != "HEAD":
        assert kind == "application/json", raw
        check_refusal(orjson.loads(raw)["error"])
        assert answer.headers["x-should-retry"] in ("true", "false")
    return answer.status


async def kept(target: Target) -> str:
    """The id of a response with some input, to be asked about."""
    body = {"input": [{"role": "user", "content": text} for text in ("a", "b", "c")]}
    async with target.http.post(f"{target.grizz.url}/v1/responses", json=body) as answer:
        return str((await answer.json())["id"])


def test_a_body_is_answered_or_refused() -> None:
    with fuzzed() as target:

        @budget(60)
        @given(spelled(bodies) | st.binary(max_size=40), queries)
        def any_body(body: bytes, query: str) -> None:
            status = target.run(ask(target, "POST", "/v1/responses", query, body, {}))
            assert status in (200, 400)

        any_body()


def test_any_path_query_and_method_is_answered_or_refused() -> None:
    with fuzzed() as target:

        @budget(80)
        @given(methods, paths, queries, st.binary(max_size=10), headers)
        def any_request(method: str, path: str, query: str, body: bytes, extra: dict[str, str]) -> None:
            target.run(ask(target, method, path, query, body, extra))

        any_request()


def test_any_question_about_a_response_that_is_there_is_answered_or_refused() -> None:
    with fuzzed() as target:
        found = target.run(kept(target))

        @budget(50)
        @given(st.sampled_from(["", "/input_items", "/cancel"]), st.sampled_from(["GET", "POST"]), queries)
        @example("/input_items", "GET", "limit=2&order=asc&after=nothing")
        def any_question(tail: str, method: str, query: str) -> None:
            status = target.run(ask(target, method, f"/v1/responses/{found}{tail}", query, b"", {}))
            assert status in (200, 400, 405)

        any_question()


async def send_raw(target: Target, data: bytes) -> bytes:
    """Bytes as they are, and the end of a header in case they have none; what came back, as long as something came."""
    url = URL(target.grizz.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    answer = b""
    try:
        writer.write(data + b"\r\n\r\n")
        while piece := await _soon(reader):
            answer += piece
    except ConnectionError:
        pass  # closed before it had read everything
    writer.close()
    return answer


async def _soon(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await reader.read(65536)
    except TimeoutError:
        return b""  # it waits for the rest of a body, say


@st.composite
def raw_requests(draw: st.DrawFn) -> bytes:
    """A request of bytes: names and values that no client's library would send."""
    junk = st.binary(max_size=8) | st.sampled_from([b"\xff\xfe", b"\xc3\xa9", b"[", b"http://[", b"a b", b"%", b"\x7f"])
    target = b"/v1/responses" + draw(st.sampled_from([b"", b"/", b"?starting_after=", b"/resp_"])) + draw(junk)
    lines = [draw(st.sampled_from([b"GET", b"POST", b"DELETE"])) + b" " + target + b" HTTP/1.1"]
    lines.append(b"Host: " + draw(st.just(b"127.0.0.1") | junk))
    for name in draw(
        st.lists(st.sampled_from([b"Origin", b"Cookie", b"Upgrade", b"Sec-WebSocket-Key", b"X"]), max_size=3)
    ):
        lines.append(name + b": " + draw(junk | st.sampled_from([b"websocket", b"http://127.0.0.1", b"null"])))
    body = draw(st.sampled_from([b"", b"{}", b'{"input":"x"}']))
    lines += [b"Content-Length: %d" % len(body), b"Connection: close"]
    return b"\r\n".join([*lines, b"", body])


def test_any_bytes_in_place_of_a_request_are_answered_or_refused() -> None:
    with fuzzed() as target:

        @budget(80)
        @given(raw_requests() | st.binary(max_size=60))
        @example(b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\nContent-Length: 2\r\n\r\n{}")
        def any_bytes(data: bytes) -> None:
            answer = target.run(send_raw(target, data))
            status = answer[:12].removeprefix(b"HTTP/1.1 ").removeprefix(b"HTTP/1.0 ")[:3]
            assert not status.startswith(b"5"), answer
            assert not target.run(target.unhandled()), data

        any_bytes()
