"""What is kept of each user, for the operator's commands: counted, exported, deleted. The port of its two stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Count:
    """What a user has.

    Attributes:
        bytes: of responses, unfinished jobs and items of conversations, as JSON.
    """

    owner: str
    responses: int
    unfinished: int
    conversations: int
    bytes: int


class People(Protocol):
    """The store, opened by a command; servers may use it meanwhile. Every method may raise what its adapter says."""

    def counts(self) -> list[Count]:
        """What each user has, by their names."""
        ...

    def export(self, owner: str) -> Iterator[dict[str, Any]]:
        """All that is kept of a user, one thing after the other; what is written meanwhile may be missing."""
        ...

    def delete(self, owner: str, within_s: float) -> tuple[int, bool]:
        """Delete all of a user's; how much it was, and whether nobody has anything of it any more.

        Servers that run stop what runs for the user, forget what they have in memory, and what they wrote meanwhile
        is deleted, too.

        Args:
            within_s: how long to wait for them.
        """
        ...
