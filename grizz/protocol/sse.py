"""Server-sent events: bytes to payloads, events to bytes (WHATWG HTML §9.2).

Only `data` matters to the chat dialects read here, so that is all the decoder keeps. A server that does not stream,
or fails too early to, answers with one object of JSON instead: a body with a line that begins with `{`, as no line of
a stream does, is one payload from there to its end.
"""

from __future__ import annotations

from grizz.errors import Code, UpstreamError

DONE = b"[DONE]"
DONE_FRAME = b"data: [DONE]\n\n"
PING_FRAME = b": ping\n\n"
_BOM = b"\xef\xbb\xbf"


def encode(event_type: str, data: bytes) -> bytes:
    """One event as one block of bytes, to be written in one call: some readers lose an event split over two reads."""
    return b"event: " + event_type.encode() + b"\ndata: " + data + b"\n\n"


class Decoder:
    """Cuts a byte stream into event payloads, wherever the chunks are split.

    Args:
        max_bytes: an event larger than this is an error, so a broken upstream cannot fill memory.
    """

    def __init__(self, max_bytes: int = 16 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._tail = b""
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._started = False
        self._bare = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads completed by `chunk`, in order.

        Raises:
            UpstreamError: one event grew beyond `max_bytes`; which one does not depend on where the stream is cut.
        """
        # Only then can an event or a line be too large: it spares the usual chunk a comparison per line.
        large = self._size + len(self._tail) + len(chunk) > self._max_bytes
        if b"\r" in chunk or self._after_cr:
            chunk = self._newlines(chunk)
        lines = (self._tail + chunk).split(b"\n") if self._tail else chunk.split(b"\n")
        if not self._started:
            lines = self._skip_bom(lines)
        self._tail = lines.pop()
        payloads: list[bytes] = []
        for line in lines:
            if large:
                self._check(line)
            if self._bare:
                self._hold(line)
            elif not line:
                if self._data and (payload := self._take()):
                    payloads.append(payload)
            elif line.startswith(b"data:"):
                self._hold(line[6:] if line[5:6] == b" " else line[5:])
            elif line.lstrip().startswith(b"{"):
                self._bare = True
                self._hold(line)
        self._check(self._tail)
        return payloads

    def close(self) -> list[bytes]:
        """What is complete but for its blank line: some servers end without one. And a body that was no stream."""
        payloads = self.feed(b"\n\n") if self._tail or self._data else []
        self._tail = b""
        if self._bare and (payload := self._take()):
            payloads.append(payload)
        return payloads

    def _check(self, line: bytes) -> None:
        if self._size + len(line) > self._max_bytes:
            text = f"the upstream sent an event of over {self._max_bytes} bytes"
            raise UpstreamError(Code.SERVER_ERROR, text, result="truncated")

    def _take(self) -> bytes:
        payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        return payload.strip()  # nothing is left of what some send to keep a connection open

    def _hold(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1  # a line may be empty, and a million of them must not be free

    def _skip_bom(self, lines: list[bytes]) -> list[bytes]:
        # Undecided while the first bytes could still become a byte order mark.
        if len(lines) == 1 and len(lines[0]) < len(_BOM) and _BOM.startswith(lines[0]):
            return lines
        self._started = True
        lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _newlines(self, chunk: bytes) -> bytes:
        """CRLF and lone CR become LF at once; an LF right after a CR that ended the last chunk is its second half."""
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            if not chunk:
                self._after_cr = False
                return chunk
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
