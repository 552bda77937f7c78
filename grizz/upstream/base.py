"""The upstream port: a model API that streams.

An adapter opens one request and hands out the raw bytes of its event stream; what they mean is the business of
`grizz.protocol`. Every failure leaves it as an `UpstreamError`, with its cause kept. Texts of errors call it
"the upstream"; who has several puts a name in its place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Upstream(Protocol):
    """One model API.

    Attributes:
        name: label value on metrics.
    """

    name: str

    @property
    def busy(self) -> int:
        """Requests it is answering now."""

    @property
    def full(self) -> bool:
        """Is it answering as many as it may? One more would have to wait."""

    def open(
        self, body: dict[str, Any], may_resend: Callable[[], bool]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Start one Chat Completions stream; leaving the block closes it, also half-way.

        Tries once: the worker decides about another try. A connection that breaks at once may be a pooled one that
        had been dropped; `may_resend`, asked each time, says whether to send the request once more.

        Raises:
            UpstreamError: from entering the block or from iterating.

        Cancel-safe: a cancelled caller leaves no open request behind.
        """

    async def models(self) -> list[dict[str, Any]]:
        """The API's models as `{"id", "object", "created", "owned_by"}`.

        Raises:
            UpstreamError: it could not be asked.
        """

    def discreet(self, text: str) -> str:
        """A text of this API without its address and its key, which are no business of the clients."""

    async def close(self) -> None:
        """Close pooled connections."""
