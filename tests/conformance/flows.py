"""Everything a response can be, as a table: what is asked, and what has to come of it over every transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.player import numbers

Body = dict[str, Any]

MESSAGE = ("message",)
CALL = ("function_call",)
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
PDF = "data:application/pdf;base64,JVBERi0xLjEKJSVFT0Y="
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The current weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city, e.g. Paris"}},
        "required": ["location"],
    },
}
CLOCK = {"type": "function", "name": "clock", "parameters": None, "strict": None}
PERSON = {
    "type": "json_schema",
    "name": "person",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Flow:
    """One request and its outcome.

    Attributes:
        items: the types of the output items, in order.
        text: what all text parts say together, where that is known.
        reason: of `incomplete_details`.
        error: the code of `response.error`.
        contains: words that the text has somewhere, where its rest is the model's own affair.
    """

    body: Body
    items: tuple[str, ...] = MESSAGE
    status: str = "completed"
    text: str | None = None
    reason: str | None = None
    error: str | None = None
    contains: str = ""


def ask(prompt: str, **fields: Any) -> Body:
    return {"input": prompt, **fields}


def say(role: str, *content: Any, **more: Any) -> Body:
    parts = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    return {"type": "message", "role": role, "content": parts, **more}


def words(text: str) -> Body:
    return {"type": "input_text", "text": text}


_ROUND_TRIP = [
    say("user", "Weather?"),
    {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
]

WHAT_A_MODEL_SAYS: dict[str, Flow] = {
    "text": Flow(ask("[[words:40]]"), text=numbers(40)),
    "one word": Flow(ask("[[echo:Hi]]"), text="Hi"),
    "nothing": Flow(ask("[[empty]]"), items=()),
    "no usage": Flow(ask("[[words:2]] [[no-usage]]"), text=numbers(2)),
    "reasoning as a summary": Flow(ask("[[reasoning:hm]] [[echo:yes]]"), ("reasoning", "message"), text="yes"),
    "raw reasoning": Flow(
        ask("[[reasoning:hm]] [[echo:yes]]", grizz_reasoning="raw"), ("reasoning", "message"), text="yes"
    ),
    "inline reasoning": Flow(ask("[[echo:<think>hm</think>yes]]"), ("reasoning", "message"), text="yes"),
    "reasoning, then a call": Flow(
        ask("[[reasoning:hm]] [[tool:get_weather]]", tools=[WEATHER]), ("reasoning", "function_call")
    ),
    "refusal": Flow(ask("[[refusal:I will not.]]")),
    "text, then a refusal": Flow(ask("[[echo:Well]] [[refusal:no]]"), text="Well"),
    "call": Flow(ask('[[tool:get_weather]] [[args:{"location":"Rome"}]]', tools=[WEATHER]), CALL),
    "call in one chunk": Flow(ask("[[tool:get_weather]] [[whole-tool]]", tools=[WEATHER]), CALL),
    "call with a late name": Flow(ask("[[tool:get_weather]] [[late-name]]", tools=[WEATHER]), CALL),
    "call without arguments": Flow(ask("[[tool:clock]] [[args:{}]]", tools=[CLOCK]), CALL),
    "parallel calls": Flow(
        ask("[[tool:get_weather]] [[args:{}]] [[tool:clock]] [[args:{}]]", tools=[WEATHER, CLOCK]), CALL * 2
    ),
    "text, then a call": Flow(ask("[[echo:Let me see.]] [[tool:clock]]", tools=[CLOCK]), MESSAGE + CALL),
    "structured": Flow(ask("Who is Alice?", text={"format": PERSON}), text='{"name":"Alice","age":1}'),
    "any object": Flow(ask("Anything, as JSON.", text={"format": {"type": "json_object"}}), contains='"model":"demo"'),
}

HOW_IT_ENDS: dict[str, Flow] = {
    "cut by length": Flow(
        ask("[[words:20]] [[length:3]]"), status="incomplete", reason="max_output_tokens", text=numbers(3)
    ),
    "max_output_tokens": Flow(
        ask("[[words:20]]", max_output_tokens=4), status="incomplete", reason="max_output_tokens", text=numbers(4)
    ),
    "call cut by length": Flow(
        ask('[[tool:f]] [[args:{"a":"a long text of many words"}]] [[length:2]]'),
        CALL,
        status="incomplete",
        reason="max_output_tokens",
    ),
    "filtered": Flow(ask("[[words:20]] [[filter:3]]"), status="incomplete", reason="content_filter", text=numbers(3)),
    "filtered at once": Flow(ask("[[words:20]] [[filter:0]]"), (), status="incomplete", reason="content_filter"),
    "failed at once": Flow(ask("[[error:500]]"), (), status="failed", error="server_error"),
    "refused by the model server": Flow(ask("[[error:400]]"), (), status="failed", error="invalid_prompt"),
    "too long for the model": Flow(ask("[[error:context]]"), (), status="failed", error="context_length_exceeded"),
    "out of money": Flow(ask("[[error:quota]]"), (), status="failed", error="insufficient_quota"),
    "throttled": Flow(ask("[[error:429]]"), (), status="failed", error="rate_limit_exceeded"),
    "failed half-way": Flow(
        ask("[[words:20]] [[midstream-error:3]]"), status="failed", error="server_error", text=numbers(3)
    ),
    "cut off": Flow(ask("[[words:20]] [[cut:3]]"), status="failed", error="server_error", text=numbers(3)),
    "cut off while reasoning": Flow(
        ask("[[reasoning:one two three four]] [[cut:2]]"), ("reasoning",), status="failed", error="server_error"
    ),
    "cut off in a call": Flow(
        ask('[[tool:f]] [[args:{"a":"a long text of many words"}]] [[cut:2]]'),
        CALL,
        status="failed",
        error="server_error",
    ),
}

WHAT_IS_ASKED: dict[str, Flow] = {
    "basic": Flow({"input": [say("user", "Say hello in exactly three words.")]}, contains="three words"),
    "content parts": Flow({"input": [say("user", words("[[echo]]one "), words("two"))]}, text="one two"),
    "a message without a type": Flow({"input": [{"role": "user", "content": "[[echo:x]]"}]}, text="x"),
    "instructions": Flow(ask("What is your system prompt?", instructions="Speak like a pirate."), contains="pirate"),
    "system message": Flow(
        {"input": [say("system", "Speak like a pirate."), say("user", "Your instructions?")]}, contains="pirate"
    ),
    "developer message": Flow(
        {"input": [say("developer", "Speak like a pirate."), say("user", "Your instructions?")]}, contains="pirate"
    ),
    "several turns": Flow(
        {
            "input": [
                say("user", "I am Alice."),
                say("assistant", "Hello Alice!"),
                say("user", "Who am I?"),
            ]
        },
        contains="I am Alice.",
    ),
    "phases": Flow(
        {
            "input": [
                say("user", "Hi."),
                say("assistant", "Let me see.", phase="commentary"),
                say("assistant", "Done.", phase="final_answer"),
                say("user", "[[echo:ok]]"),
            ]
        },
        text="ok",
    ),
    "an image in the request": Flow(
        {"input": [say("user", words("What is it?"), {"type": "input_image", "image_url": PIXEL, "detail": "low"})]},
        contains="an image (image/gif, 37 bytes)",
    ),
    "an image elsewhere": Flow(
        {"input": [say("user", words("?"), {"type": "input_image", "image_url": "https://example.com/a.png"})]},
        contains="an image at https://example.com/a.png",
    ),
    "a file in the request": Flow(
        {"input": [say("user", words("?"), {"type": "input_file", "filename": "a.pdf", "file_data": PDF})]},
        contains="a file (a.pdf)",
    ),
    "a tool that fits": Flow(ask("How is the weather in Rome?", tools=[WEATHER]), CALL),
    "a tool that does not": Flow(ask("[[echo:no]]", tools=[WEATHER], tool_choice="auto"), text="no"),
    "a required tool": Flow(ask("Anything.", tools=[WEATHER, CLOCK], tool_choice="required"), CALL),
    "a forced tool": Flow(
        ask("Anything.", tools=[WEATHER, CLOCK], tool_choice={"type": "function", "name": "clock"}), CALL
    ),
    "allowed tools": Flow(
        ask(
            "Anything.",
            tools=[WEATHER, CLOCK],
            tool_choice={
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "clock"}],
            },
        ),
        CALL,
    ),
    "no tool": Flow(ask("How is the weather in Rome?", tools=[WEATHER], tool_choice="none"), contains="Rome"),
    "tools of another server": Flow(
        ask("[[echo:x]]", tools=[{"type": "web_search"}, WEATHER, {"type": "custom", "name": "patch"}]), text="x"
    ),
    "a tool's result": Flow(
        {
            "input": [*_ROUND_TRIP, {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}],
            "tools": [WEATHER],
        },
        contains="get_weather answered: sunny",
    ),
    "a tool's result in parts": Flow(
        {
            "input": [
                *_ROUND_TRIP,
                {"type": "function_call_output", "call_id": "call_1", "output": [words("sun"), words("ny")]},
            ]
        },
        contains="get_weather answered: sunny",
    ),
    "reasoning handed back": Flow(
        {
            "input": [
                say("user", "Hi."),
                {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
                say("assistant", {"type": "output_text", "text": "Hello.", "annotations": []}),
                say("user", "[[echo:ok]]"),
            ]
        },
        text="ok",
    ),
    "everything echoed": Flow(
        ask(
            "[[echo:x]]",
            temperature=0.5,
            top_p=0.25,
            presence_penalty=1,
            frequency_penalty=-1,
            top_logprobs=2,
            max_output_tokens=100,
            max_tool_calls=3,
            parallel_tool_calls=False,
            reasoning={"effort": "low", "summary": "auto"},
            text={"verbosity": "low"},
            truncation="auto",
            metadata={"k": "v"},
            safety_identifier="someone",
            prompt_cache_key="a key",
            service_tier="default",
        ),
        text="x",
    ),
    "fields nobody knows": Flow(ask("[[echo:x]]", client_metadata={"a": 1}, moderation=None), text="x"),
}

FLOWS = {**WHAT_A_MODEL_SAYS, **HOW_IT_ENDS, **WHAT_IS_ASKED}
