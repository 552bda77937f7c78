"""`python -m benchmarks.chaos.patched WHAT [FILE] -- …`: Grizz with one thing changed, before it starts.

The clock can be moved while it runs: FILE holds eight bytes, the seconds by which this process's wall clock is wrong.
Everything else is a build that is broken on purpose, in the one place where all sockets are written, so that the suite
can show that it would notice.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

# Which delta of the first answer that has come so far a broken build gets wrong, and which word of all answers.
DELTA, WORD = 8, 100


def clock(path: str) -> None:
    """Before any module can have taken `time.time` for itself."""
    with open(path, "r+b") as file:
        shift = mmap.mmap(file.fileno(), 8)
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + struct.unpack("<d", shift[:])[0]
    time.time_ns = lambda: real_ns() + int(struct.unpack("<d", shift[:])[0] * 1e9)


Send = Callable[[Any, Sequence[bytes]], Awaitable[None]]


def broken(how: str) -> None:
    """Break the writing of sockets for one event of one answer, then never again."""
    from grizz.web.socket import Socket

    send: Send = Socket.send_texts
    silent: list[Any] = []
    deltas: dict[Any, int] = {}
    done: list[Any] = []

    async def sabotage(connection: Any, messages: Sequence[bytes]) -> None:
        sent = []
        for data in messages:
            if connection in silent:
                break
            sent.append(data)
            if b".output_text.delta" in data and not done:
                deltas[connection] = deltas.get(connection, 0) + 1
                if deltas[connection] == DELTA:
                    done.append(connection)
                    if how == "hang":
                        silent.append(connection)
                    if how == "double":
                        sent.append(data)
                    if how in ("hang", "drop"):
                        sent.pop()
        await send(connection, sent)

    Socket.send_texts = sabotage  # type: ignore[method-assign, assignment]
    # The other way out is closed, so that all goes this one.
    Socket.write_now = lambda *_: False  # type: ignore[method-assign]


def muddled(how: str) -> None:
    """Break what is said before it is numbered: only the words can tell."""
    from grizz.protocol.compose import Composer

    text = Composer.text
    count = [0]
    latest: dict[Any, str] = {}

    def sabotage(composer: Any, content: str, *rest: Any) -> None:
        count[0] += 1
        if count[0] == WORD:
            if how == "swallow":
                return
            if how == "stutter":
                text(composer, content, *rest)
            if how == "mix-up":
                content = next(word for other, word in latest.items() if other is not composer)
        latest[composer] = content
        text(composer, content, *rest)

    Composer.text = sabotage  # type: ignore[method-assign, assignment]


BREAKS: dict[str, Callable[[str], None]] = {
    **dict.fromkeys(("drop", "double", "hang"), broken),
    **dict.fromkeys(("swallow", "stutter", "mix-up"), muddled),
}


def main() -> int:
    split = sys.argv.index("--")
    what, *more = sys.argv[1:split]
    if what == "clock":
        clock(more[0])
    else:
        BREAKS[what](what)
    from grizz.cli import main as grizz

    return grizz(sys.argv[split + 1 :])


if __name__ == "__main__":
    sys.exit(main())
