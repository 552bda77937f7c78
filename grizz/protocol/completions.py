"""Bodies of `POST /v1/chat/completions` → Request: the same answer, asked for in the older dialect.

A body is put into the words of the Responses API and checked there. What that API has no word for travels in
`fields["grizz_chat"]`, which upstreams that speak Chat Completions are given as it is (`chat.py`). The way back is
`choices.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grizz.errors import Code, RequestError
from grizz.protocol import requests
from grizz.protocol.items import bad, kind
from grizz.protocol.messages import array, items, name_of
from grizz.protocol.requests import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked body.

    Attributes:
        include_usage: a stream's last chunk shall tell the usage.
        logprobs: the answer shall have them.
        functions: the tools came as `functions`, and so a call goes back as `function_call`.
    """

    request: Request
    include_usage: bool
    logprobs: bool
    functions: bool


def parse(body: Any, default_model: str) -> Asked:
    """Check a body. Unless it says `store: true`, nothing of it is kept.

    Args:
        default_model: answers when the client names none.

    Raises:
        RequestError: 400; its `param` is the path of what is wrong, as the client spelled it.
    """
    if not isinstance(body, dict):
        raise RequestError(400, Code.INVALID_TYPE, f"The request body must be a JSON object, not {kind(body)}.")
    given = {key: value for key, value in body.items() if value is not None}
    for key, (allowed, why) in _REFUSED.items():
        if key in given and given[key] not in allowed:
            raise bad(Code.UNSUPPORTED_PARAMETER, f"'{key}' is not supported: {why}", key)
    chat = _chat_only(given)
    logprobs = _logprobs(given)
    wanted = {key: given[key] for key in _SAME if key in given}
    wanted |= {"store": given.get("store", False), "input": items(given.get("messages"))}
    wanted |= _tools(given) | _texts(given)
    if logprobs:
        wanted["include"] = ["message.output_text.logprobs"]
    for limit in ("max_tokens", "max_completion_tokens"):
        if limit in given:
            wanted["max_output_tokens"] = given[limit]
    try:
        # What is only passed on goes along, for the look at how deep it is.
        request = requests.parse({**wanted, "grizz_chat": chat}, default_model)
    except RequestError as error:
        raise _in_their_words(error, given) from error
    request = dataclasses.replace(request, fields={**request.fields, "grizz_chat": chat})
    return Asked(request, _include_usage(given), logprobs, "functions" in given)


# Fields of the same name and meaning in both dialects.
_SAME = (
    "model",
    "stream",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "parallel_tool_calls",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
)
# What is refused, the values that are not, and why.
_REFUSED: dict[str, tuple[Sequence[Any], str]] = {
    "n": ((1,), "there is one answer to a request; allowed is 1."),
    "modalities": (([], ["text"]), 'answers are text; allowed is ["text"].'),
    "audio": ((), "answers are text."),
    "web_search_options": ((), "no search is run here; offer it as a function."),
    "moderation": ((), "nothing is moderated here."),
}


def _in_their_words(error: RequestError, given: dict[str, Any]) -> RequestError:
    if error.param != "max_output_tokens":
        return error
    name = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    return bad(error.code, error.message.replace("max_output_tokens", name), name)


# What only a chat upstream is told


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


_NUMBER, _WHOLE = (_is_number, "a number"), (_is_whole, "a whole number")
_OBJECT, _STRING = (_is_object, "an object"), (_is_string, "a string")
# The last line is not OpenAI's: what vLLM, SGLang, llama.cpp and others take, and clients send as `extra_body`.
_CHAT_ONLY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "stop": (_is_stop, "a string or an array of strings"),
    "seed": _WHOLE,
    "logit_bias": _OBJECT,
    "prediction": _OBJECT,
    "prompt_cache_key": _STRING,
    "prompt_cache_options": _OBJECT,
    "prompt_cache_retention": _STRING,
    "response_format": _OBJECT,
    "safety_identifier": _STRING,
    "service_tier": _STRING,
    "user": _STRING,
    "verbosity": _STRING,
    **{"top_k": _WHOLE, "min_p": _NUMBER, "repetition_penalty": _NUMBER, "chat_template_kwargs": _OBJECT},
}


def _chat_only(given: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, (is_right, what) in _CHAT_ONLY.items():
        if key in given:
            if not is_right(given[key]):
                raise bad(Code.INVALID_TYPE, f"'{key}' must be {what}, not {kind(given[key])}.", key)
            found[key] = given[key]
    return found


# Plain fields


def _logprobs(given: dict[str, Any]) -> bool:
    wanted = given.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise bad(Code.INVALID_TYPE, f"'logprobs' must be true or false, not {kind(wanted)}.", "logprobs")
    if not wanted and "top_logprobs" in given:
        raise bad(Code.INVALID_VALUE, "'top_logprobs' is allowed only with 'logprobs': true.", "top_logprobs")
    return wanted


def _include_usage(given: dict[str, Any]) -> bool:
    options = given.get("stream_options", {})
    if not isinstance(options, dict):
        raise bad(Code.INVALID_TYPE, f"'stream_options' must be an object, not {kind(options)}.", "stream_options")
    return options.get("include_usage") is True


def _texts(given: dict[str, Any]) -> dict[str, Any]:
    """`response_format`, `verbosity` and `reasoning_effort` where a Responses upstream looks for them."""
    text: dict[str, Any] = {}
    if (form := _format(given.get("response_format"))) is not None:
        text["format"] = form
    if "verbosity" in given:
        text["verbosity"] = given["verbosity"]
    wanted: dict[str, Any] = {"text": text} if text else {}
    effort = given.get("reasoning_effort")
    if effort is not None:
        if not isinstance(effort, str):
            text_ = f"'reasoning_effort' must be a string, not {kind(effort)}."
            raise bad(Code.INVALID_TYPE, text_, "reasoning_effort")
        wanted["reasoning"] = {"effort": effort}
    return wanted


def _format(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    form = given.get("type")
    if form in ("text", "json_object"):
        return {"type": form}
    if form != "json_schema":
        where = "response_format.type"
        raise bad(Code.INVALID_VALUE, f"'{where}' must be text, json_object or json_schema.", where)
    where, schema = "response_format.json_schema", given.get("json_schema")
    if not isinstance(schema, dict) or not isinstance(schema.get("name"), str):
        raise bad(Code.MISSING_PARAMETER, f"'{where}' must be an object with a 'name'.", where)
    if not isinstance(schema.get("schema"), dict):
        raise bad(Code.MISSING_PARAMETER, f"'{where}' needs a 'schema', which is an object.", f"{where}.schema")
    return {**{key: value for key, value in schema.items() if value is not None}, "type": form}


# Tools


def _tools(given: dict[str, Any]) -> dict[str, Any]:
    """Tools and the choice among them, in either spelling."""
    if "tools" in given and "functions" in given:
        text = "'functions' is the older word for 'tools'; send one of the two."
        raise bad(Code.MUTUALLY_EXCLUSIVE, text, "functions")
    wanted: dict[str, Any] = {}
    if "functions" in given:
        listed = array(given["functions"], "functions")
        wanted["tools"] = [_function(one, f"functions[{index}]") for index, one in enumerate(listed)]
    elif "tools" in given:
        listed = array(given["tools"], "tools")
        wanted["tools"] = [_tool(one, f"tools[{index}]") for index, one in enumerate(listed)]
    if "tool_choice" in given:
        wanted["tool_choice"] = _tool_choice(given["tool_choice"])
    elif "function_call" in given:
        wanted["tool_choice"] = _function_choice(given["function_call"])
    return wanted


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise bad(Code.UNSUPPORTED_PARAMETER, f"'{where}' must be an object with the 'type' function.", f"{where}.type")
    return _function(tool.get("function"), f"{where}.function")


def _function(function: Any, where: str) -> dict[str, Any]:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise bad(Code.MISSING_PARAMETER, f"'{where}' must be an object with a 'name'.", f"{where}.name")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad(Code.INVALID_TYPE, f"'{where}.parameters' must be a JSON schema object.", f"{where}.parameters")
    keys = ("name", "description", "parameters", "strict")
    return {"type": "function", **{key: function[key] for key in keys if function.get(key) is not None}}


def _tool_choice(choice: Any) -> Any:
    if choice in ("auto", "none", "required"):
        return choice
    form = choice.get("type") if isinstance(choice, dict) else None
    if form == "function":
        return {"type": "function", "name": name_of(choice.get("function"), "tool_choice.function")}
    if form == "allowed_tools" and isinstance(allowed := choice.get("allowed_tools"), dict):
        where = "tool_choice.allowed_tools"
        mode = allowed.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise bad(Code.INVALID_VALUE, f"'{where}.mode' must be auto or required.", f"{where}.mode")
        names = []
        for index, tool in enumerate(array(allowed.get("tools"), f"{where}.tools")):
            place = f"{where}.tools[{index}]"
            names.append(name_of(tool.get("function") if isinstance(tool, dict) else None, f"{place}.function"))
        return {"type": form, "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}
    text = "'tool_choice' must be auto, none, required, or an object of the 'type' function or allowed_tools."
    raise bad(Code.INVALID_VALUE, text, "tool_choice")


def _function_choice(choice: Any) -> Any:
    if choice in ("auto", "none"):
        return choice
    if not isinstance(choice, dict):
        raise bad(Code.INVALID_VALUE, "'function_call' must be auto, none or an object with a 'name'.", "function_call")
    return {"type": "function", "name": name_of(choice, "function_call")}
