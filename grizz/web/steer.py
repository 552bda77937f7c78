"""`response.steer`: why it cannot be done, in the words that the API has for it (protocol §3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grizz.engine.engine import Engine
from grizz.engine.reply import Reply
from grizz.errors import Code, RequestError
from grizz.protocol.items import normalise
from grizz.web import notices


async def refuse(engine: Engine, owner: str, frame: dict[str, Any], notify: Callable[[notices.Notice], None]) -> None:
    """Answer a frame: always a refusal, with its reason. Cancel-safe."""
    code, text = await _why(engine, owner, frame.get("previous_response_id"), frame.get("input"))
    notify(notices.steer_failed(frame, code, text))


async def _why(engine: Engine, owner: str, response_id: Any, given: Any) -> tuple[Code, str]:
    if not isinstance(response_id, str):
        return Code.INVALID_INPUT, "'previous_response_id' must name a response."
    try:
        if not given or not normalise(given):
            return Code.INVALID_INPUT, "'input' is missing: a string or an array of items."
    except RequestError as error:
        return Code.INVALID_INPUT, error.message
    try:
        found = await engine.find(response_id, owner)
    except RequestError as error:
        code = Code.RESPONSE_NOT_FOUND if error.code is Code.RESPONSE_NOT_FOUND else Code.STEERING_NOT_SUPPORTED
        return code, error.message
    if not isinstance(found, Reply) or found.ended:
        return Code.RESPONSE_ALREADY_COMPLETED, "The response has ended; create another one after it."
    return Code.STEERING_NOT_SUPPORTED, (
        "A running response takes no further input here; cancel it, or create another after it."
    )
