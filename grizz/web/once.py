"""A request with an `Idempotency-Key`: the first one becomes a response, each later one gets the same."""

from __future__ import annotations

import asyncio
from typing import Any

from grizz.engine.call import Call
from grizz.engine.engine import Engine
from grizz.engine.history import Turn
from grizz.engine.reply import Reply
from grizz.errors import Code, RequestError
from grizz.protocol.requests import Request
from grizz.web.auth import Identity
from grizz.web.limits import Limits, submit

# Another process that has just claimed a key may wait so long for its Redis before its response exists, and a bit.
_LOOKS = 8
_LOOK_EVERY_S = 0.4


async def submit_once(
    engine: Engine, limits: Limits, identity: Identity, request: Request, size: int, call: Call, *, key: str, body: Any
) -> tuple[Reply | Turn, bool]:
    """Let a request in, unless this key brought one in already: its response, and whether it is an earlier one.

    Args:
        size: bytes of the request.
        body: the whole request, as JSON; the same key does not stand for another one.

    Raises:
        RequestError: it is refused, in which case the key is free again; 422, the key was used with another body; 409,
            the response that it stands for is not kept any more.
    """
    owner = identity.owner
    for _ in range(_LOOKS):
        response_id = engine.new_response_id()
        earlier = await engine.once.take(owner, key, body, response_id)
        if earlier is None:
            try:
                reply = await submit(engine, limits, identity, request, size, None, call, response_id)
            except BaseException:
                engine.once.give_back(owner, key)
                raise
            engine.once.keep(owner, key)
            return reply, False
        try:
            return await engine.find(earlier.response_id, owner), True
        except RequestError as error:
            if error.code is not Code.RESPONSE_NOT_FOUND:
                raise
            if not earlier.elsewhere:
                break
        engine.once.doubt(owner, key)
        await asyncio.sleep(_LOOK_EVERY_S)
    text = "The response of this Idempotency-Key is not kept any more; take a new key to ask again."
    raise RequestError(
        409, Code.IDEMPOTENCY_RESPONSE_GONE, text, param="Idempotency-Key", headers={"x-should-retry": "false"}
    )
