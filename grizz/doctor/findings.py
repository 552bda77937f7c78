"""What a check found, and how people and machines see it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import orjson

from grizz.config.schema import one_line

State = Literal["ok", "note", "bad"]
_MARKS: dict[State, str] = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what it was, such as "python" or "upstream main: models".
        state: fine; works, and could be better; does not work.
        text: what was found, one line.
        advice: what to do about it; "" when there is nothing to do.
    """

    about: str
    state: State
    text: str
    advice: str = ""

    @property
    def line(self) -> str:
        """For people."""
        shown = f"{_MARKS[self.state]}  {self.about}: {one_line(self.text)}"
        return shown + (f"\n      → {one_line(self.advice)}" if self.advice else "")


class Report:
    """Shows findings as they come.

    Args:
        as_json: one object a line, instead of words.
        hidden: texts that must not be shown, whoever says them.
    """

    def __init__(self, *, as_json: bool, hidden: Iterable[str] = ()) -> None:
        self._as_json = as_json
        self._hidden = sorted({text for text in hidden if text}, key=len, reverse=True)
        self.findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Show one."""
        clean = Finding(finding.about, finding.state, self._discreet(finding.text), self._discreet(finding.advice))
        self.findings.append(clean)
        self._write(orjson.dumps(asdict(clean)).decode() if self._as_json else clean.line)

    def end(self) -> int:
        """Sum up; the exit status: 0 when nothing is bad."""
        bad = sum(finding.state == "bad" for finding in self.findings)
        notes = sum(finding.state == "note" for finding in self.findings)
        if not self._as_json:
            found = "nothing is wrong" if not bad else "one thing is wrong" if bad == 1 else f"{bad} things are wrong"
            self._write(f"\n{found}" + (f", {notes} could be better" if notes else ""))
        return int(bad > 0)

    def _discreet(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
