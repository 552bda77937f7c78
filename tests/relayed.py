"""What servers that speak the Responses API send: whole answers as lists of events, for tests to break."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]
R = {"id": "resp_theirs", "object": "response", "status": "in_progress", "model": "theirs", "output": []}


def message(index: int, *words: str, item_id: str | None = None, refusal: bool = False) -> list[Event]:
    """A message with one part."""
    item_id = item_id or f"msg_{index}"
    kind, value = ("refusal", "refusal") if refusal else ("output_text", "text")
    place = {"item_id": item_id, "output_index": index, "content_index": 0}
    extra: Event = {} if refusal else {"annotations": []}
    whole = {"type": kind, value: "".join(words), **extra}
    item = {"id": item_id, "type": "message", "role": "assistant"}
    return [
        added(index, {**item, "status": "in_progress", "content": []}),
        {"type": "response.content_part.added", **place, "part": {"type": kind, value: "", **extra}},
        *({"type": f"response.{kind}.delta", **place, "delta": word, "logprobs": []} for word in words),
        {"type": f"response.{kind}.done", **place, value: "".join(words), "logprobs": []},
        {"type": "response.content_part.done", **place, "part": whole},
        done(index, {**item, "status": "completed", "content": [whole]}),
    ]


def reasoning(index: int, *words: str, form: str = "summary") -> list[Event]:
    """Reasoning as OpenAI's summary, as OpenAI's raw text, or under the names of Open Responses."""
    summary = form == "summary"
    name = {"summary": "reasoning_summary_text", "text": "reasoning_text", "open": "reasoning"}[form]
    part = "reasoning_summary_part" if summary else "content_part"
    home = "summary" if summary else "content"
    place = {"item_id": f"rs_{index}", "output_index": index, f"{home}_index": 0}
    kind = "summary_text" if summary else "reasoning_text"
    whole = {"type": kind, "text": "".join(words)}
    item: Event = {"id": f"rs_{index}", "type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    return [
        added(index, item),
        {"type": f"response.{part}.added", **place, "part": {"type": kind, "text": ""}},
        *({"type": f"response.{name}.delta", **place, "delta": word} for word in words),
        {"type": f"response.{name}.done", **place, "text": "".join(words)},
        {"type": f"response.{part}.done", **place, "part": whole},
        done(index, {**item, home: [whole]}),
    ]


def call(index: int, *fragments: str, kind: str = "function_call") -> list[Event]:
    """A call whose arguments come in pieces: of a function, of a custom tool, or of a hosted one."""
    name, value = {
        "function_call": ("function_call_arguments", "arguments"),
        "custom_tool_call": ("custom_tool_call_input", "input"),
        "mcp_call": ("mcp_call_arguments", "arguments"),
        "code_interpreter_call": ("code_interpreter_call_code", "code"),
    }[kind]
    item: Event = {"id": f"c_{index}", "type": kind, "status": "in_progress", "name": "f", value: ""}
    if kind in ("function_call", "custom_tool_call"):
        item["call_id"] = f"call_{index}"
    place, text = {"item_id": item["id"], "output_index": index}, "".join(fragments)
    return [
        added(index, item),
        *({"type": f"response.{name}.delta", **place, "delta": fragment} for fragment in fragments),
        {"type": f"response.{name}.done", **place, value: text},
        done(index, {**item, "status": "completed", value: text}),
    ]


def hosted(index: int) -> list[Event]:
    """A web search of the server's own, and what is of no known type."""
    item = {"id": f"ws_{index}", "type": "web_search_call", "status": "in_progress"}
    place = {"item_id": item["id"], "output_index": index}
    return [
        added(index, item),
        {"type": "response.web_search_call.searching", **place},
        {"type": "vendor:progress", **place, "of": {"any": ["kind"]}},
        {"type": "vendor:news", "response": dict(R), "response_id": R["id"]},
        done(index, {**item, "status": "completed", "action": {"type": "search", "query": "q"}}),
    ]


def added(index: int, item: Event) -> Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, item: Event) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def answer(*items: list[Event], end: str = "completed", told: bool = True) -> list[Event]:
    """A whole stream, numbered; `told`: the last event repeats the output."""
    output = [event["item"] for item in items for event in item if event["type"] == "response.output_item.done"]
    usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    last = {**R, "status": end, "output": output if told else [], "usage": usage}
    begun = [{"type": "response.created", "response": R}, {"type": "response.in_progress", "response": R}]
    events = [*begun, *(event for item in items for event in item), {"type": f"response.{end}", "response": last}]
    return [{"sequence_number": number, **event} for number, event in enumerate(events)]
