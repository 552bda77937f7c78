"""What one model server will not be asked: fields of ours that it refused by name."""

from __future__ import annotations

from typing import Any

# The two names of the same bound.
_BOUNDS = ("max_tokens", "max_completion_tokens")
# How a refusal says that a field itself, and not its value, is the trouble.
_UNKNOWN = (
    *("unsupported", "not supported", "unknown", "unrecognized", "unrecognised", "unexpected"),
    *("extra", "not permitted", "not allowed", "does not support", "not known"),
)


class Manners:
    """Learns from refusals, once and for all requests to come; knows nothing until then.

    Only fields that clients did not choose: `stream_options`, which Grizz adds to count tokens and older servers do not
    know, and the name of the bound on tokens. What a client asked for is refused to it in the server's own words.
    """

    def __init__(self) -> None:
        self._silent = False
        self._bound = ""

    def fit(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body as the server takes it; itself when nothing was learned that concerns it."""
        if self._silent and "stream_options" in body:
            body = {key: value for key, value in body.items() if key != "stream_options"}
        other = next((name for name in _BOUNDS if name != self._bound), "")
        if self._bound and other in body and self._bound not in body:
            body = {self._bound if key == other else key: value for key, value in body.items()}
        return body

    def learn(self, body: dict[str, Any], refusal: str) -> bool:
        """Does the refusal of this body, a 400 or 422, name a field that can be said otherwise or not at all?"""
        said = refusal.lower()
        if "stream_options" in body and "stream_options" in said and not self._silent:
            self._silent = True
            return True
        if self._bound or not any(words in said for words in _UNKNOWN):
            return False
        for ours, other in (_BOUNDS, _BOUNDS[::-1]):
            if ours in body and other not in body and ours in said:
                self._bound = other
                return True
        return False
