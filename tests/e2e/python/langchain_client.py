"""LangChain as a client. Usage: langchain_client.py BASE_URL; prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains frogs in {city}"


def model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="grizz-demo", base_url=sys.argv[1], api_key="any", use_responses_api=True, max_retries=0, **options
    )


def tool_loop() -> str:
    bound = model().bind_tools([get_weather])
    messages: list[Any] = [HumanMessage("What is the weather in Paris?")]
    answer = bound.invoke(messages)
    messages.append(answer)
    messages += [get_weather.invoke(call) for call in answer.tool_calls]
    assert isinstance(messages[-1], ToolMessage)
    return bound.invoke(messages).text


def two_turns() -> list[str]:
    chat = model(use_previous_response_id=True)
    first = chat.invoke("I am Alice. [[echo:Hello Alice]]")
    second = chat.invoke([HumanMessage("I am Alice."), first, HumanMessage("What did I say?")])
    return [first.response_metadata["id"], second.text]


def streamed() -> dict[str, Any]:
    whole: Any = None
    count = 0
    for chunk in model(reasoning={"effort": "low", "summary": "auto"}).stream("[[reasoning:hm]] [[words:30]]"):
        whole = chunk if whole is None else whole + chunk
        count += 1
    blocks = [block["type"] for block in whole.content_blocks]
    return {"text": whole.text, "chunks": count > 3, "blocks": blocks, "tokens": whole.usage_metadata["output_tokens"]}


async def at_once() -> list[str]:
    answers = await asyncio.gather(*(model().ainvoke(f"[[echo:{n}]]") for n in range(3)))
    return [answer.text for answer in answers]


print(
    json.dumps(
        {
            "invoke": model().invoke("[[words:20]]").text,
            "stream": streamed(),
            "tools": tool_loop(),
            "structured": model()
            .with_structured_output(Person, method="json_schema")
            .invoke("Who is Alice?")
            .model_dump(),
            "by function": model()
            .with_structured_output(Person, method="function_calling")
            .invoke("Who is Alice?")
            .model_dump(),
            "turns": two_turns(),
            "at once": asyncio.run(at_once()),
        }
    )
)
