"""The frames that belong to a connection and to no response's log (protocol §14): they consume no number.

`sequence_number` is the last one that the client has of that response, since clients keep the number of every event as
their cursor; 0 where there is no response.
"""

from __future__ import annotations

from typing import Any

from grizz.errors import Code

Notice = dict[str, Any]

AUTHENTICATED: Notice = {"type": "grizz:authenticated", "sequence_number": 0}


def attached(response_id: str, after: int, last_seq: int, status: str, attempt: int) -> Notice:
    """A response is delivered from `after` on; to be sent before its events."""
    # The caller's own cursor, not the log's end (protocol §12.2).
    notice = {"type": "grizz:attached", "sequence_number": after, "last_sequence_number": last_seq}
    return notice | {"response_id": response_id, "status": status, "attempt": attempt}


def queue(response_id: str, after: int, position: int) -> Notice:
    """So many jobs will be handed out before this one."""
    return {"type": "grizz:queue", "sequence_number": after, "response_id": response_id, "position": position}


def idle(closes_in_s: float) -> Notice:
    """The connection will be closed for being idle."""
    return {"type": "grizz:idle", "sequence_number": 0, "closes_in_s": round(max(0.0, closes_in_s), 1)}


def steer_failed(frame: dict[str, Any], code: Code, message: str) -> Notice:
    """The documented refusal of `response.steer` (protocol §3.2), which gives back what was to be said."""
    error = {"type": "invalid_request_error", "code": str(code), "message": message}
    steer = {"previous_response_id": frame.get("previous_response_id"), "input": frame.get("input")}
    return {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
