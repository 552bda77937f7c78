"""The upstream port: a model API that streams.

An adapter opens one request and hands out the raw bytes of its event stream; what they mean is the business of
`grizz.protocol`. Every failure leaves it as an `UpstreamError`, with its cause kept. Texts of errors call it
"the upstream"; who has several puts a name in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, Self

from grizz.core.job import NO_TRACE


class Chunks(Protocol):
    """The bytes of one event stream, as they come.

    Iterating raises `UpstreamError` when the stream breaks off or is silent for too long, and is cancel-safe: nothing
    that was read is lost.
    """

    def __aiter__(self) -> Self:
        """Itself."""

    async def __anext__(self) -> bytes:
        """What has come, once something has."""

    def pause(self) -> None:
        """Let what comes gather below, to be read at once after `resume`. A pause is not taken for silence."""

    def resume(self) -> None:
        """The opposite of `pause`; harmless when nothing is paused, and after the end."""


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
        self, body: dict[str, Any], may_resend: Callable[[], bool], headers: Mapping[str, str] = NO_TRACE
    ) -> AbstractAsyncContextManager[Chunks]:
        """Start one stream of an answer; leaving the block closes it, also half-way.

        Tries once: the worker decides about another try. A connection that breaks at once may be a pooled one that
        had been dropped; `may_resend`, asked each time, says whether to send the request once more.

        Args:
            headers: further ones, as those of a trace.

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
