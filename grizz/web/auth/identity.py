"""What is known about a client once it has said who it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from grizz.errors import Code, RequestError


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        owner: whose responses these are; never a secret, safe to log.
        key: name of the [keys.NAME] table it came in by, or "".
        expires_at: when it has to prove itself again, in seconds since the epoch; None for never.
        proof: by what it was known (the hash of a key, or which key signed its token), to ask later whether that
            still counts; "" for the anonymous.
        limited_as: for whom it is counted, where limits are per user; the owner, if not said otherwise. Never what a
            client can invent: whoever makes up a new owner for each request must not get new limits each time.
    """

    owner: str
    key: str = ""
    expires_at: float | None = None
    proof: str = field(default="", repr=False, compare=False)
    limited_as: str = ""

    def __post_init__(self) -> None:
        if not self.limited_as:
            object.__setattr__(self, "limited_as", self.owner)


def refused(text: str, code: Code = Code.INVALID_API_KEY) -> RequestError:
    """The 401 of a credential that does not count. Never put the credential in the text."""
    return RequestError(401, code, text)
