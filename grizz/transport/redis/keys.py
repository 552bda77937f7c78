"""The names of everything in the Redis. One hash tag, so that a cluster keeps an installation on one node."""

from __future__ import annotations

from dataclasses import dataclass

GROUP = "grizz"
# Of jobs, records and messages. Whatever only adds keeps the number: fields and kinds of messages that a node does not
# know are passed over. What changes the meaning of something gets the next one, and with it other streams and channels:
# nodes of two numbers leave each other's work alone.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Keys:
    """Key and channel names under one prefix."""

    prefix: str

    def _work(self, name: str) -> str:
        """A name that only nodes of the same format share."""
        return f"{{{self.prefix}}}:{name}" if FORMAT == 1 else f"{{{self.prefix}}}:{FORMAT}:{name}"

    @property
    def jobs(self) -> str:
        """Stream of jobs that any node may run."""
        return self._work("jobs")

    @property
    def dead(self) -> str:
        """Stream of jobs that were given up."""
        return self._work("dead")

    @property
    def everybody(self) -> str:
        """Where all nodes are spoken to."""
        return self._work("all")

    def channel(self, node: str) -> str:
        """Where a node is spoken to."""
        return self._work(f"n:{node}")

    def records(self, node: str, heir: str = "") -> str:
        """Hash of the jobs that a node runs itself; renamed when an heir takes it over."""
        return self._work(f"records:{node}" + (f":{heir}" if heir else ""))

    def heir(self, node: str) -> str:
        """Who took a node's responses over; a node that finds its own was deposed."""
        return self._work(f"heir:{node}")

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
