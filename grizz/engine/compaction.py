"""Compaction items: sealed for their owner when a conversation is compacted, opened when they come back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from grizz.core.vault import Vault
from grizz.engine.ids import new_id
from grizz.errors import ClaimsDown, Code, RequestError
from grizz.protocol import compaction
from grizz.protocol.items import Item, Source, with_ids
from grizz.protocol.reader import usage
from grizz.transport.base import Claims

# For as long as nobody empties the Redis, or removes the file.
_KEPT_S = 10 * 365 * 86_400.0


class Compactions:
    """Seals and opens.

    Args:
        secret: shared by all that shall open each other's items; "" makes one: with `claims` whoever needs it first
            gives it to all others, also to those after a restart; without them it dies with this process.
        claims: those of all nodes, or those in the file, or None.
        foreign: does an upstream make items of its own? Then what was not sealed here is left to it.
    """

    def __init__(self, secret: str, claims: Claims | None, *, foreign: bool = False) -> None:
        self._foreign = foreign
        self._mine = secret or secrets.token_urlsafe(32)
        self._vault = Vault(self._mine)
        self._claims = None if secret else claims

    def __repr__(self) -> str:
        return f"<Compactions{', secret not agreed' if self._claims else ''}>"

    async def compacted(self, owner: str, response: dict[str, Any], context: Sequence[Item]) -> dict[str, Any]:
        """The answer of `POST /v1/responses/compact`.

        Args:
            response: in which a model was asked for the summary.
            context: the conversation.

        Raises:
            RequestError: there is no summary; 503, the secret is not to be had now.
        """
        summary = compaction.summary_of(response)
        await self.agree()
        token = self._vault.seal(owner, compaction.packed(context, summary))
        item = {"id": new_id("cmp"), "type": "compaction", "encrypted_content": token}
        return {
            "id": response["id"],
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [*with_ids(compaction.kept(context), new_id), item],
            "usage": response["usage"] or usage({}),
        }

    async def opened(
        self, owner: str, context: Sequence[Item], given: int, *, where: str = "input", source: Source | None = None
    ) -> list[Item]:
        """The context with what its compaction items hold instead of them. Cancel-safe.

        Args:
            given: how many of its last items the client has just sent.
            where: the parameter that these came in.
            source: what the items before them are of; None when there are none.

        Raises:
            RequestError: 400, one of them cannot be opened: changed, another owner's, or of a server with another
                secret; 503, the secret is not to be had now.
        """
        found: dict[str, list[Item]] = {}
        older = len(context) - given
        for index, item in enumerate(context):
            token = item.get("encrypted_content") if item["type"] == "compaction" else None
            if token is None:
                continue
            if self._foreign and not self._vault.made(token):
                continue
            await self.agree()
            data = self._vault.open(owner, token)
            if data is None:
                text = "This compaction item cannot be opened here; send the conversation itself."
                param = f"{where}[{index - older}].encrypted_content"
                if index < older and source is not None:
                    text, param = f"{text} {source.names(item)}", source.param
                raise RequestError(400, Code.INVALID_ENCRYPTED_CONTENT, text, param=param)
            # With ids as all other items: what is read of a context is found and kept by them.
            found[token] = with_ids(compaction.unpacked(data), new_id)
        return compaction.in_place(context, found)

    async def check(self, owner: str, items: Sequence[Item], where: str) -> list[Item]:
        """As `opened`, of items that are to be kept for later turns: none may make each of those fail."""
        return await self.opened(owner, items, len(items), where=where)

    async def agree(self) -> None:
        """Take the secret that whoever came first has left: one or two commands of Redis, at the first need.

        Cancel-safe. Whoever is about to pay a model for a summary asks first: without the secret it would be lost.

        Raises:
            RequestError: 503, the secret is not to be had now.
        """
        if self._claims is None:
            return
        try:
            theirs = await self._claims.claim("compaction", self._mine, _KEPT_S)
        except ClaimsDown:
            text = "The secret of compacted conversations is not to be had now; try again."
            raise RequestError(503, Code.OVERLOADED, text, retry_after_s=1.0) from None
        self._vault = Vault(theirs or self._mine)
        self._claims = None
