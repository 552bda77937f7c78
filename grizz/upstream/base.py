"""The upstream port: a model API that streams.

An adapter opens one request and hands out the raw bytes of its event stream; what they mean is the business of
`grizz.protocol`. Every failure leaves it as an `UpstreamError`, with its cause kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Upstream(Protocol):
    """One model API.

    Attributes:
        name: label value on metrics and in errors.
    """

    name: str

    def open(self, body: dict[str, Any]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Start one Chat Completions stream; leaving the block closes it, also half-way.

        Tries once: the worker decides about another try.

        Raises:
            UpstreamError: from entering the block or from iterating.

        Cancel-safe: a cancelled caller leaves no open request behind.
        """

    async def models(self) -> list[dict[str, Any]]:
        """The API's models as `{"id", "object", "created", "owned_by"}`.

        Raises:
            UpstreamError: it could not be asked.
        """

    async def close(self) -> None:
        """Close pooled connections."""
