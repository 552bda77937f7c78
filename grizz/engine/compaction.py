"""Compaction items: sealed for their owner when a conversation is compacted, opened when they come back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from grizz.core.vault import Vault
from grizz.engine.ids import new_id
from grizz.errors import Code, RequestError
from grizz.protocol import compaction
from grizz.protocol.items import Item, with_ids
from grizz.protocol.reader import usage


def compacted(vault: Vault, owner: str, response: dict[str, Any], context: Sequence[Item]) -> dict[str, Any]:
    """The answer of `POST /v1/responses/compact`.

    Args:
        response: in which a model was asked for the summary.
        context: the conversation.

    Raises:
        RequestError: there is no summary.
    """
    summary = compaction.summary_of(response)
    token = vault.seal(owner, compaction.packed(context, summary))
    item = {"id": new_id("cmp"), "type": "compaction", "encrypted_content": token}
    return {
        "id": response["id"],
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*with_ids(compaction.kept(context), new_id), item],
        "usage": response["usage"] or usage({}),
    }


def opened(vault: Vault, owner: str, context: Sequence[Item], given: int) -> list[Item]:
    """The context with what its compaction items hold instead of them.

    Args:
        given: how many of its last items the client has just sent.

    Raises:
        RequestError: 400, one of them cannot be opened: changed, another owner's, or of a server with another secret.
    """
    found: dict[str, list[Item]] = {}
    older = len(context) - given
    for index, item in enumerate(context):
        if item["type"] != "compaction":
            continue
        token = item["encrypted_content"]
        if index < older and not vault.made(token):
            continue  # a model API's own, which it said in an earlier turn
        data = vault.open(owner, token)
        if data is None:
            text = "This compaction item cannot be opened here; send the conversation itself."
            param = f"input[{index - older}].encrypted_content" if index >= older else "previous_response_id"
            raise RequestError(400, Code.INVALID_ENCRYPTED_CONTENT, text, param=param)
        found[token] = compaction.unpacked(data)
    return compaction.in_place(context, found) if found else list(context)
