"""JSON by the letter, and what model servers send that is nearly JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

# The least likely: what OpenAI writes in the place of a logarithm of nothing, and some servers write -Infinity.
LEAST_LOGPROB = -9999.0
_MOST = 2**63 - 1


def loads(payload: bytes) -> Any:
    """The object of a payload that orjson may refuse: as Python reads it, made fit to be written again.

    Servers that stream byte by byte cut letters in two: half of a pair of surrogates or of a letter's bytes becomes
    U+FFFD. Those that compute in Python write NaN and Infinity, which become null, and -Infinity.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        try:
            text = payload.decode(errors="replace")
            return _writable(json.loads(text, parse_constant=_constant, parse_int=_whole, parse_float=_real))
        except (ValueError, RecursionError):
            raise error from None


def _constant(name: str) -> float | None:
    return LEAST_LOGPROB if name == "-Infinity" else None


def _whole(digits: str) -> int | float:
    number = int(digits)
    return number if -_MOST <= number <= _MOST else float(number)


def _real(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_writable(one) for one in value]
    if isinstance(value, dict):
        return {_writable(key): _writable(one) for key, one in value.items()}
    return value
