"""How one model server wants to be asked, learned from what it refused."""

from __future__ import annotations

from typing import Any

import orjson

from grizz.protocol import roles

# The two names of the same bound.
_BOUNDS = ("max_tokens", "max_completion_tokens")
# How a refusal says that a field itself, and not its value, is the trouble.
_UNKNOWN = (
    *("unsupported", "not supported", "unknown", "unrecognized", "unrecognised", "unexpected"),
    *("extra", "not permitted", "not allowed", "does not support", "not known"),
)
# How chat templates refuse the order of messages: Qwen's and others'; Mistral's and Gemma's; and the system at all.
_SYSTEM_LATE = (
    *("system message must be at the beginning", "system message must be the first", "system message must be first"),
    *("system messages are only allowed at", "roles must alternate"),
)
_NO_SYSTEM = ("system role not supported", "system role is not supported", "does not support system")


class Manners:
    """Learns once and for all requests to come for a model; knows nothing until then.

    Only what clients did not choose: `stream_options`, which Grizz adds to count tokens and older servers do not know;
    the name of the bound on tokens; and who is said to speak, where a template cannot say it otherwise. All else is
    refused to the client in the server's own words.
    """

    def __init__(self) -> None:
        self._uncounted = False
        self._bound = ""
        self._folds = False
        self._no_system = False

    def fit(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body as the server takes it; itself when nothing was learned that concerns it."""
        if self._uncounted and "stream_options" in body:
            body = {key: value for key, value in body.items() if key != "stream_options"}
        other = next((name for name in _BOUNDS if name != self._bound), "")
        if self._bound and other in body and self._bound not in body:
            body = {self._bound if key == other else key: value for key, value in body.items()}
        if self._folds and "messages" in body:
            body = {**body, "messages": roles.fold(body["messages"], system_first=not self._no_system)}
        return body

    def learn(self, body: dict[str, Any], status: int, refusal: str) -> bool:
        """Does the refusal of this body say what can be said otherwise, or not at all? Ends: it learns each once."""
        said = refusal.lower()
        own = orjson.dumps(body).decode().lower()
        names = ("stream_options", *_BOUNDS)
        if any(words in own for words in (*_SYSTEM_LATE, *_NO_SYSTEM)) or any(own.count(name) > 1 for name in names):
            return False  # it may quote the client, and no client decides for others how they are asked
        if "messages" in body and self._learn_roles(said):  # a template that fails is a 500 to some servers
            return True
        if status not in (400, 422):
            return False
        if "stream_options" in body and "stream_options" in said and not self._uncounted:
            self._uncounted = True
            return True
        if self._bound or not any(words in said for words in _UNKNOWN):
            return False
        for ours, other in (_BOUNDS, _BOUNDS[::-1]):
            if ours in body and other not in body and ours in said:
                self._bound = other
                return True
        return False

    def _learn_roles(self, said: str) -> bool:
        if not self._no_system and any(words in said for words in _NO_SYSTEM):
            self._folds = self._no_system = True
            return True
        if not self._folds and any(words in said for words in _SYSTEM_LATE):
            self._folds = True
            return True
        return False
