"""What an upstream says about its response as a whole, as ours says it: settings in force, usage, errors, the end."""

from __future__ import annotations

from typing import Any

from grizz.errors import Code, UpstreamError

# Characters of an upstream's error that clients are shown, and the largest count of tokens that is believed.
_MAX_DETAIL = 1000
_MAX_TOKENS = 2**53

# Whose response it is, what it answers and how it ended: that is ours to say.
_OURS = frozenset(
    {
        *("id", "object", "created_at", "completed_at", "status", "background", "error", "incomplete_details"),
        *("instructions", "model", "output", "previous_response_id", "conversation", "store", "metadata", "usage"),
        *("tools", "tool_choice", "input", "output_text", "user", "prompt", "max_output_tokens", "max_tool_calls"),
        *("prompt_cache_key", "safety_identifier"),
    }
)
_SAME = ("id", "created_at", "model", "previous_response_id", "store", "metadata", "background", "conversation")

# code → what clients see, the class of the failure, and may it help to try again?
_FAILURES: dict[str, tuple[Code, str, bool]] = {
    "rate_limit_exceeded": (Code.RATE_LIMIT, "429", True),
    "429": (Code.RATE_LIMIT, "429", True),
    "insufficient_quota": (Code.INSUFFICIENT_QUOTA, "429", False),
    "context_length_exceeded": (Code.CONTEXT_LENGTH, "400", False),
    "model_not_found": (Code.MODEL_NOT_FOUND, "404", False),
    "404": (Code.MODEL_NOT_FOUND, "404", False),
    **dict.fromkeys(
        (
            *("invalid_prompt", "invalid_request_error", "invalid_value", "400", "422"),
            *("bio_policy", "cyber_policy", "misalignment_policy_violation", "data_residency_mismatch"),
        ),
        (Code.INVALID_PROMPT, "400", False),
    ),
}
# How servers without a code for it say that a conversation is too long.
_TOO_LONG = (
    *("maximum context length", "available context size", "maximum model length", "model's context length"),
    *("exceeds the context window", "prompt is too long", "exceeds the maximum number of tokens"),
    *("exceed_context_size", "`max_new_tokens` must be <=", "context length of only"),
)


def says_too_long(text: str) -> bool:
    """Is this how a model server refuses a conversation that its model cannot hold?"""
    said = text.lower()
    return any(words in said for words in _TOO_LONG)


def failure(error: Any, kind: str = "") -> UpstreamError:
    """What a failed response, an `error` event or an error object says, before or after the first content."""
    if kind == "response.cancelled":
        return UpstreamError(Code.SERVER_ERROR, "the upstream cancelled its answer", result="5xx", retryable=True)
    given = error if isinstance(error, dict) else {"message": error}
    code, detail = given.get("code"), given.get("message")
    name = str(code) if isinstance(code, str | int) else ""
    image = (Code.INVALID_PROMPT, "400", False) if "image" in name else (Code.SERVER_ERROR, "5xx", True)
    ours, result, retryable = _FAILURES.get(name, image)
    if name != "context_length_exceeded" and isinstance(detail, str) and says_too_long(detail):
        ours, result, retryable = _FAILURES["context_length_exceeded"]
    said = detail[:_MAX_DETAIL] if isinstance(detail, str) and detail else "it did not say why"
    return UpstreamError(ours, f"the upstream failed: {said}", result=result, retryable=retryable)


def ending(kind: str, response: dict[str, Any]) -> dict[str, Any]:
    """How `response.completed` or `.incomplete` ends ours, as keyword arguments of `Composer.finish`.

    Raises:
        UpstreamError: somebody cancelled it there.
    """
    how: dict[str, Any] = {"status": "completed", "usage": usage(response.get("usage"))}
    if kind == "response.incomplete":
        if response.get("status") == "cancelled":
            raise failure(None, "response.cancelled")
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        how |= {"status": "incomplete", "incomplete": reason if isinstance(reason, str) else "max_output_tokens"}
    return how


def usage(given: Any) -> dict[str, Any] | None:
    """Usage as it came, with what the rest of Grizz counts on; None when the upstream told none."""
    if not isinstance(given, dict):
        return None
    details_in, details_out = given.get("input_tokens_details"), given.get("output_tokens_details")
    asked = count(given, "input_tokens") or count(given, "prompt_tokens")
    made = count(given, "output_tokens") or count(given, "completion_tokens")
    return {
        **given,
        "input_tokens": asked,
        "input_tokens_details": {
            **(details_in if isinstance(details_in, dict) else {}),
            "cached_tokens": count(details_in, "cached_tokens"),
            "cache_write_tokens": count(details_in, "cache_write_tokens"),
        },
        "output_tokens": made,
        "output_tokens_details": {
            **(details_out if isinstance(details_out, dict) else {}),
            "reasoning_tokens": count(details_out, "reasoning_tokens"),
        },
        "total_tokens": count(given, "total_tokens") or asked + made,
    }


def count(holder: Any, name: str) -> int:
    """A number of tokens; what is not told, or is none, is 0."""
    value = holder.get(name) if isinstance(holder, dict) else None
    if isinstance(value, float) and value.is_integer():  # as those count who have no other numbers
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else 0


def of_response(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The settings that were in force there, and what only that server tells; nothing that changes a field's kind."""
    return {key: value for key, value in theirs.items() if key not in _OURS and _fits(key, ours.get(key), value)}


def _fits(key: str, ours: Any, theirs: Any) -> bool:
    if key == "text":
        form = theirs.get("format") if isinstance(theirs, dict) else None
        return isinstance(form, dict) and isinstance(form.get("type"), str)
    if key == "reasoning":
        return theirs is None or (isinstance(theirs, dict) and {"effort", "summary"} <= theirs.keys())
    if ours is None:
        return True
    if isinstance(ours, int | float) and not isinstance(ours, bool):
        return isinstance(theirs, int | float) and not isinstance(theirs, bool)
    return type(theirs) is type(ours)


def embedded(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """A Response inside an event that is not known here."""
    return {**theirs, **{key: ours[key] for key in _SAME if key in ours}}
