"""Input that is nearly right: what clients, model servers and other nodes send, with something wrong in it.

Most of it is made by mutation: a valid document is taken and at a few random places a value is exchanged, left out,
doubled or added. So the first checks pass, and what lies behind them is reached. `spelled` writes a document as JSON,
at times broken; values that Python cannot hold (NaN, lone surrogates, a thousand arrays in one another) are *marks*,
short texts that become what they stand for when they are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Json = Any

# Deeper than JSON is written (254), then deeper than it is read (1,024).
_DEPTHS = (40, 200, 230, 250, 253, 254, 300, 1000, 1030)
MARKS = {f"@{depth} arrays@": "[" * depth + "]" * depth for depth in _DEPTHS}
MARKS |= {f"@{depth} objects@": '{"type":' * depth + "1" + "}" * depth for depth in _DEPTHS}
_VALID_MARKS = list(MARKS)
_BROKEN = ["NaN", "-Infinity", "1e400", "-", "01", '"\\ud800"', '"\\udc00\\ud800"', '"\t"', "{}}", "1/**/", "'a'", ""]
MARKS |= {f"@{text}@": text for text in _BROKEN}

# What a careless reader trips over: numbers as text, quotes, controls, ends of ranges, and words with a meaning.
_WORDS = ["", "0", "-1", "true", "null", "é😀", "\x00", '"', "\\", "\u202e", "x" * 300, "resp_", "function", "message"]
words = st.text(max_size=8) | st.sampled_from(_WORDS)
numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**53, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
leaves = st.none() | st.booleans() | numbers | words
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5
)
wrong = st.one_of(leaves, anything, anything, st.sampled_from(_VALID_MARKS), st.sampled_from(list(MARKS)))


def places(document: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a document, its own first."""
    found = [path]
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += places(value, (*path, index))
    return found


def changed(document: Json, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Json:
    """A copy in which `change` was applied to what holds the value at `path`, and the key it has there."""
    holder = [json.loads(json.dumps(document))]
    at: Any = holder
    for key in (0, *path)[:-1]:
        at = at[key]
    change(at, (0, *path)[-1])
    return holder[0] if holder else None


@st.composite
def mutated(draw: st.DrawFn, *documents: Json, names: tuple[str, ...] = ("type", "id")) -> Json:
    """One of the documents with up to three things wrong in it, or none; `names` are keys that mean something there."""
    document = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(document)))
        value, name = draw(wrong), draw(st.sampled_from(names) | words)
        change = draw(st.sampled_from((_put(value), _put(value), _put(value), _drop, _double, _add(name, value))))
        document = changed(document, path, change)
    return document


def _put(value: Json) -> Callable[[Any, Any], None]:
    def change(holder: Any, key: Any) -> None:
        holder[key] = value

    return change


def _drop(holder: Any, key: Any) -> None:
    del holder[key]


def _double(holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[f"{key}_"] = holder[key]


def _add(name: str, value: Json) -> Callable[[Any, Any], None]:
    def change(holder: Any, key: Any) -> None:
        if isinstance(holder[key], dict):
            holder[key][name] = value
        elif isinstance(holder[key], list):
            holder[key].append(value)

    return change


def written(document: Json) -> str:
    """A document as JSON, its marks as what they stand for."""
    text = json.dumps(document)
    if "@" in text:
        for mark, meaning in MARKS.items():
            text = text.replace(json.dumps(mark), meaning)
    return text


@st.composite
def spelled(draw: st.DrawFn, documents: st.SearchStrategy[Json]) -> bytes:
    """The text of a document; one in three has a doubled key, spaces around it, bytes exchanged, or an end cut off."""
    data = written(draw(documents)).encode()
    how = draw(st.sampled_from(("whole",) * 8 + ("doubled", "spaces", "bytes", "cut")))
    if how == "doubled" and data.startswith(b"{") and len(data) > 2:
        return data[:-1] + b"," + data[1:]
    if how == "spaces":
        return b" \r\n\t" + data + b"\n "
    at = draw(st.integers(0, len(data)))
    if how == "cut":
        return data[:at]
    if how == "bytes":
        return data[:at] + draw(st.binary(max_size=3)) + data[at + 1 :]
    return data


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    edges = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]


# What clients send (protocol §3, §6)

_TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
_SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
_ITEMS: list[Json] = [
    {"role": "user", "content": "hi"},
    {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "be brief"}]},
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "what is this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
            {"type": "input_file", "file_data": "AAAA", "filename": "a.pdf"},
        ],
    },
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "A", "annotations": []}, {"type": "refusal", "refusal": "no"}],
    },
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": []},
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "call_1", "output": "42"},
    {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "42"}]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
]
_REFERENCE = {"type": "item_reference", "id": "msg_1"}
BODIES: tuple[Json, ...] = (
    {"input": "hi"},
    {"model": "m", "input": _ITEMS},
    {"input": [_ITEMS[0], _REFERENCE], "store": False, "generate": True},
    {"instructions": "be brief", "generate": False, "metadata": {"a": "b"}, "user": "u", "grizz_reasoning": "raw"},
    {
        "input": [_ITEMS[3]],
        "tools": [_TOOL, {"type": "web_search"}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "parallel_tool_calls": True,
        "max_tool_calls": 3,
    },
    {"input": "x", "tools": [_TOOL], "tool_choice": {"type": "function", "name": "f"}, "reasoning": {"effort": "low"}},
    {"input": "x", "text": {"format": _SCHEMA, "verbosity": "low"}, "include": ["message.output_text.logprobs"]},
    {"input": "x", "previous_response_id": "resp_0a1b2c3d0000", "truncation": "auto", "service_tier": "default"},
    {"input": "x", "temperature": 1, "top_p": 0.5, "max_output_tokens": 5, "top_logprobs": 2, "presence_penalty": 0},
    {"input": "x", "stream": True},
    {"input": "x", "background": True},
)
FIELDS = tuple(sorted({"conversation", "prompt", "type", "id", "text"}.union(*BODIES)))
bodies = mutated(*BODIES, names=FIELDS)

_LANE = {"stream_id": "a.b-c_1"}
FRAMES: tuple[Json, ...] = (
    *({"type": "response.create", **body} for body in BODIES),
    {"type": "response.create", "input": "hi", **_LANE},
    {"type": "response.cancel", "response_id": "resp_0a1b2c3d0000"},
    {"type": "response.cancel", **_LANE},
    {"type": "response.steer", "previous_response_id": "resp_1", "input": [_ITEMS[0]]},
    {"type": "response.processed", "response_id": "resp_1"},
    {"type": "grizz:attach", "response_id": "resp_0a1b2c3d0000", "starting_after": 20, **_LANE},
    {"type": "grizz:detach", "response_id": "resp_1"},
    {"type": "grizz:detach", **_LANE},
    {"type": "grizz:presence", "state": "hidden"},
)
frames = mutated(*FRAMES, names=(*FIELDS, "stream_id", "response_id", "starting_after", "state"))
frame_bytes = st.one_of(spelled(frames), spelled(frames), spelled(frames), st.binary(max_size=40))

# What model servers send (protocol §16.2)


def chunk(delta: Json, finish: str | None = None, **more: Json) -> Json:
    """A chunk of a chat stream with one choice."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


_TOP = [{"token": "H", "logprob": -1.5, "bytes": [72]}]
_LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": _TOP}]}
_WITH_LOGPROBS = chunk({"content": "Hi"})
_WITH_LOGPROBS["choices"][0]["logprobs"] = _LOGPROBS
_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
_USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "total_tokens": 11,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
SAYING: tuple[Json, ...] = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hello"}),
    _WITH_LOGPROBS,
    chunk({"content": "<think>deep"}),
    chunk({"content": "</think>\n\nso"}),
    chunk({"reasoning_content": "hm"}),
    chunk({"reasoning": "hm", "content": None}),
    chunk({"refusal": "no"}),
    chunk({"tool_calls": [_CALL]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}, {**_CALL, "index": 1, "id": "call_2"}]}),
    chunk({"tool_calls": [{"id": "call_3", "function": {"name": "g", "arguments": {"a": 1}}}]}),
    chunk({"function_call": {"name": "f", "arguments": "{}"}}),
)
ENDING: tuple[Json, ...] = (
    chunk({}, "stop"),
    chunk({}, "length"),
    chunk({}, "content_filter"),
    chunk({"content": "."}, "tool_calls", usage=_USAGE),
    {"choices": [], "usage": _USAGE},
    {"error": {"message": "overloaded", "code": 503}},
)
_CHUNK_NAMES = ("index", "delta", "content", "refusal", "tool_calls", "function", "name", "arguments", "usage", "error")
chunks = mutated(*SAYING, *SAYING, *ENDING, names=_CHUNK_NAMES)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A server-sent event stream of nearly right chunks, as one run of bytes."""
    newline = draw(st.sampled_from((b"\n", b"\n", b"\r\n", b"\r")))
    said = draw(st.lists(st.one_of(st.sampled_from(SAYING), chunks), max_size=5))
    said += draw(st.lists(st.one_of(st.sampled_from(ENDING), chunks), max_size=2))
    lines = [b"data: " + written(document).encode() for document in said]
    other = [
        b": ping",
        b"event: x",
        b"data",
        b"data:",
        b"id: 1",
        b"data: [DONE]",
        b"\xef\xbb\xbfdata: {}",
        b"data: \xff",
    ]
    for line in draw(st.lists(st.sampled_from(other) | st.binary(max_size=10), max_size=3)):
        lines.insert(draw(st.integers(0, len(lines))), line)
    if draw(st.booleans()):
        lines.append(b"data: [DONE]")
    stream = b"".join(line + newline * draw(st.sampled_from((2, 2, 2, 1))) for line in lines)
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.integers(0, 9)) == 0 else stream


# What other nodes send and write

RECORD: Json = {
    "v": 1,
    "id": "resp_0a1b2c3d0000ff",
    "owner": "local",
    "home": "0a1b2c3d",
    "attempt": 1,
    "token": "t",
    "accepted_at": 1.79e9,
    "expires_at": 1.79e9,
    "size": 10,
    "next_seq": 2,
    "output": [{"id": "msg_1", "type": "message"}],
    "work": {
        "model": "m",
        "fields": {"input": "x"},
        "input": 1,
        "context": [_ITEMS[1]],
        "response": {"id": "resp_0a1b2c3d0000ff", "status": "in_progress", "model": "m"},
    },
}
records = mutated(RECORD, names=tuple(RECORD))

EVENT = b'{"type":"response.output_text.delta","sequence_number":7,"item_id":"msg_1","output_index":0,"delta":"x"}'
MESSAGE: Json = {
    "v": 1,
    "from": "0a1b2c3d",
    "parts": [{"k": "events", "id": "resp_1", "t": "token", "s": 7, "n": 2}, {"k": "echo"}, {"k": "hello", "n": 1}],
}


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message of the bus: a line of JSON, then the lines of its parts."""
    head = draw(spelled(mutated(MESSAGE, names=("k", "n", "s", "t", "parts", "from"))))
    lines = draw(st.lists(st.just(EVENT) | st.binary(max_size=20), max_size=4))
    return b"\n".join([head, *lines])
