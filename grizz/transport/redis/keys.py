"""The names of everything in the Redis. One hash tag, so that a cluster keeps an installation on one node."""

from __future__ import annotations

from dataclasses import dataclass

GROUP = "grizz"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key and channel names under one prefix."""

    prefix: str

    @property
    def jobs(self) -> str:
        """Stream of jobs that any node may run."""
        return f"{{{self.prefix}}}:jobs"

    @property
    def dead(self) -> str:
        """Stream of jobs that were given up."""
        return f"{{{self.prefix}}}:dead"

    @property
    def everybody(self) -> str:
        """Where all nodes are spoken to."""
        return f"{{{self.prefix}}}:all"

    def channel(self, node: str) -> str:
        """Where a node is spoken to."""
        return f"{{{self.prefix}}}:n:{node}"

    def records(self, node: str, heir: str = "") -> str:
        """Hash of the jobs that a node runs itself; renamed when an heir takes it over."""
        return f"{{{self.prefix}}}:records:{node}" + (f":{heir}" if heir else "")

    def heir(self, node: str) -> str:
        """Who took a node's responses over; a node that finds its own was deposed."""
        return f"{{{self.prefix}}}:heir:{node}"

    def history(self, bucket: str) -> str:
        """Hash of finished responses that one node made within one hour and that ended together."""
        return f"{{{self.prefix}}}:history:{bucket}"

    def turn(self, response_id: str) -> str:
        """A finished response that ended alone."""
        return f"{{{self.prefix}}}:turn:{response_id}"

    def claim(self, name: str) -> str:
        """Who has a name that only one may have."""
        return f"{{{self.prefix}}}:claim:{name}"

    def usage(self, month: str) -> str:
        """How many commands all nodes sent in a month (YYYY-MM)."""
        return f"{{{self.prefix}}}:commands:{month}"

    def conversation(self, conversation_id: str) -> str:
        """Hash of what is known of a conversation; with `:items` and `:order` behind it, what was said in it."""
        return f"{{{self.prefix}}}:conv:{conversation_id}"

    def conversations(self, owner: str) -> str:
        """Sorted set of an owner's conversations, by when they were last written to."""
        return f"{{{self.prefix}}}:convs:{owner}"
