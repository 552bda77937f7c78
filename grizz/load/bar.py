"""Progress, where a person sees it."""

from __future__ import annotations

from typing import TextIO

from grizz.load.tally import Tally

_WIDTH = 24
_LINE_EVERY_S = 5.0
# Without a terminal, and with one.
_REFRESH_S = (1.0, 0.2)


class Bar:
    """A bar that is drawn again and again on a terminal; elsewhere a line now and then.

    Args:
        answers: how many there will be at most.
        seconds: how long it goes on at most.
    """

    def __init__(self, out: TextIO, tally: Tally, *, answers: int, seconds: float) -> None:
        self._out = out
        self._tally = tally
        self._answers = answers
        self._seconds = seconds
        self._on_terminal = out.isatty()
        self._said_at = 0.0
        self.every_s = _REFRESH_S[self._on_terminal]

    def show(self, elapsed_s: float) -> None:
        """How far it is."""
        tally = self._tally
        share = min(1.0, max(tally.answers / self._answers, elapsed_s / self._seconds))
        text = (
            f"{tally.answers}/{self._answers} answers, {tally.running} running, "
            f"{tally.failed} failed, {tally.faults.total()} not whole, {elapsed_s:.0f} s"
        )
        if self._on_terminal:
            full = round(share * _WIDTH)
            self._out.write(f"\r\x1b[K[{'#' * full}{'.' * (_WIDTH - full)}] {text}")
            self._out.flush()
        elif elapsed_s - self._said_at >= _LINE_EVERY_S:
            self._said_at = elapsed_s
            self._out.write(text + "\n")
            self._out.flush()

    def clear(self) -> None:
        """Nothing more is to be shown."""
        if self._on_terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()
