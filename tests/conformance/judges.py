"""Two independent schemas of the protocol as judges: openai's own types, strict, and those of Open Responses.

Both come as published packages. Where the two contradict each other, one of them is wrong about any server; there
`DISSENT` translates for one of the judges: it is the whole list of such places.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Union, get_args

import openresponses_types as open_types
from openai.types import Model
from openai.types.responses import Response, ResponseItem, ResponsesServerEvent, ResponseStreamEvent
from openai.types.shared import ErrorObject
from pydantic import BaseModel, TypeAdapter

Object = dict[str, Any]


def _by_type(models: Iterable[type[BaseModel]]) -> dict[str, TypeAdapter[Any]]:
    """Each `type` with the models that have it: asking all of a union takes long and explains nothing."""
    found: dict[str, list[type[BaseModel]]] = {}
    for model in models:
        for name in get_args(model.model_fields["type"].annotation) or model.model_fields["type"].annotation or ():
            found.setdefault(str(name), []).append(model)
    return {name: TypeAdapter(Union[tuple(models)]) for name, models in found.items()}  # noqa: UP007


def _members(union: Any) -> Iterable[type[BaseModel]]:
    """The models of an annotated union, unions within it included."""
    for member in get_args(get_args(union)[0]):
        yield from [member] if isinstance(member, type) else _members(member)


_SSE_EVENTS = _by_type(_members(ResponseStreamEvent))
_WEBSOCKET_EVENTS = _by_type(_members(ResponsesServerEvent))
_ITEMS = _by_type(_members(ResponseItem))
_OPEN_ITEMS = _by_type(
    (open_types.Message, open_types.FunctionCall, open_types.FunctionCallOutput, open_types.ReasoningBody)
)
_OPEN_EVENTS = _by_type(model for name, model in vars(open_types).items() if name.endswith("StreamingEvent"))


# Where the two dialects contradict each other.


def _raw_reasoning(event: Object) -> Object:
    """Raw reasoning is `response.reasoning_text.*` to OpenAI, `response.reasoning.*` to Open Responses."""
    return {**event, "type": event["type"].replace(".reasoning_text.", ".reasoning.")}


def _schema_echo(response: Object) -> Object:
    """OpenAI echoes the schema of `text.format`; the type of Open Responses allows only null there."""
    form = response["text"]["format"]
    if form["type"] != "json_schema":
        return response
    return {**response, "text": {**response["text"], "format": {**form, "schema": None}}}


def _hosted_tools(response: Object) -> Object:
    """Tools other than functions have types in OpenAI's dialect alone."""
    return {**response, "tools": [tool for tool in response["tools"] if tool["type"] == "function"]}


def _codes_of_models(response: Object) -> Object:
    """Codes that OpenAI's clients know and read, but its type of `response.error` does not list."""
    error = response["error"]
    if not error or error["code"] not in ("context_length_exceeded", "insufficient_quota", "model_not_found"):
        return response
    return {**response, "error": {**error, "code": "server_error"}}


DISSENT: dict[str, tuple[Callable[[Object], Object], ...]] = {
    "an event to Open Responses": (_raw_reasoning,),
    "a response to Open Responses": (_schema_echo, _hosted_tools),
    "a response to OpenAI": (_codes_of_models,),
}


def _said(what: str, body: Object) -> Object:
    for translate in DISSENT[what]:
        body = translate(body)
    return body


# The judges.


def sse_event(event: Object) -> None:
    """One event of a stream over HTTP."""
    _event(event, _SSE_EVENTS)


def websocket_event(event: Object) -> None:
    """One event of a response over WebSocket, with or without a lane's name."""
    _event(event, _WEBSOCKET_EVENTS)


def _event(event: Object, openai_events: dict[str, TypeAdapter[Any]]) -> None:
    to_openai, to_open = event, _said("an event to Open Responses", event)
    if "response" in event:
        to_openai = {**to_openai, "response": _said("a response to OpenAI", event["response"])}
        to_open = {**to_open, "response": _said("a response to Open Responses", event["response"])}
    openai_events[event["type"]].validate_json(json.dumps(to_openai), strict=True)
    _OPEN_EVENTS[to_open["type"]].validate_json(json.dumps(to_open))


def response(body: Object) -> None:
    """A Response object."""
    Response.model_validate_json(json.dumps(_said("a response to OpenAI", body)), strict=True)
    open_types.ResponseResource.model_validate_json(json.dumps(_said("a response to Open Responses", body)))


def item(body: Object) -> None:
    """An item as a listing shows it."""
    _ITEMS[body["type"]].validate_json(json.dumps(body), strict=True)
    _OPEN_ITEMS[body["type"]].validate_json(json.dumps(body))


def model(body: Object) -> None:
    """An entry of `/v1/models`; Open Responses has no such listing."""
    Model.model_validate_json(json.dumps(body), strict=True)


def error(body: Object) -> None:
    """The `error` object of a refused HTTP request."""
    ErrorObject.model_validate_json(json.dumps(body), strict=True)
    open_types.ErrorPayload.model_validate_json(json.dumps(body))


def websocket_notice(frame: Object) -> None:
    """A frame that belongs to no response's log: an error, or a refused steer, which only OpenAI has."""
    _WEBSOCKET_EVENTS[frame["type"]].validate_json(json.dumps(frame), strict=True)
    if frame["type"] == "error":
        open_types.ErrorPayload.model_validate_json(json.dumps(frame["error"]))
        assert type(frame["status"]) is int, "clients ignore an error whose status is no number"
