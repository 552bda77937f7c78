"""What a load run has counted, and how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grizz.load.judge import Heard
from grizz.telemetry.spread import Spread, percentile


@dataclass(slots=True)
class Tally:
    """Counts of one run.

    Attributes:
        ended: answers by outcome.
        faults: answers by what was wrong: lost, doubled, hung.
        refused: refusals by code, after which the same was asked again.
        denied: refusals for good by code.
        examples: a response id for each kind of fault.
        first, whole: seconds from asking to the first delta, and to the end.
        gaps: seconds between two deltas.
        connections, reconnects, resumes: WebSockets or requests that were opened; again after a drop; with an answer to
            go on with.
        unconfirmed: questions that were asked again, since the connection broke before the server had said anything.
        anew: answers that began anew, since the process that made them died.
        stopped: answers that were cancelled because the run was over.
        running: answers that run now.
    """

    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    gaps: Spread = field(default_factory=Spread)
    tokens: int = 0
    deltas: int = 0
    connections: int = 0
    reconnects: int = 0
    resumes: int = 0
    unconfirmed: int = 0
    anew: int = 0
    stopped: int = 0
    running: int = 0

    @property
    def answers(self) -> int:
        """How many have ended."""
        return self.ended.total()

    @property
    def failed(self) -> int:
        """How many of them ended as failed."""
        return sum(count for outcome, count in self.ended.items() if outcome.startswith("failed"))

    def end(self, heard: Heard, asked_at: float, now: float) -> None:
        """An answer has ended."""
        self.ended[heard.outcome] += 1
        self.whole.append(now - asked_at)
        if heard.first_at is not None:
            self.first.append(heard.first_at - asked_at)
        for gap in heard.gaps:
            self.gaps.observe(gap)
        self.tokens += heard.tokens
        self.deltas += heard.deltas
        self.anew += heard.anew
        if fault := heard.fault:
            self.blame(fault, heard.response_id)

    def blame(self, fault: str, response_id: str) -> None:
        """An answer is lost, doubled or hung."""
        self.faults[fault] += 1
        self.examples.setdefault(fault, response_id)

    def facts(self, took_s: float, cpu: float) -> dict[str, Any]:
        """Everything, for machines.

        Args:
            cpu: share of one core that asking took.
        """
        return {
            "answers": self.answers,
            "ended": dict(self.ended),
            "lost": self.faults["lost"],
            "doubled": self.faults["doubled"],
            "hung": self.faults["hung"],
            "examples": self.examples,
            "refused": dict(self.refused),
            "denied": dict(self.denied),
            "stopped": self.stopped,
            "unconfirmed": self.unconfirmed,
            "begun_anew": self.anew,
            "connections": self.connections,
            "reconnects": self.reconnects,
            "resumes": self.resumes,
            "first_token_s": _percentiles(self.first),
            "whole_answer_s": _percentiles(self.whole),
            "between_tokens_s": {f"p{p}": percentile(self.gaps.counts, p / 100) for p in _SHOWN},
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / took_s, 1),
            "deltas": self.deltas,
            "answers_per_s": round(self.answers / took_s, 2),
            "took_s": round(took_s, 2),
            "own_cpu": round(cpu, 2),
        }


_SHOWN = (50, 95, 99)


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    return {
        f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 4) if ordered else None for p in _SHOWN
    }


def shown(facts: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{facts['answers']} answers in {facts['took_s']:.1f} s, {facts['answers_per_s']:.1f} a second"]
    lines += [f"  {outcome}: {count}" for outcome, count in sorted(facts["ended"].items())]
    lines += [f"  stopped at the end of the run: {facts['stopped']}"] if facts["stopped"] else []
    lines.append("")
    lines.append(f"{'':22}{'p50':>10}{'p95':>10}{'p99':>10}")
    for name, key in (("first token", "first_token_s"), ("whole answer", "whole_answer_s")):
        lines.append(f"{name:22}" + "".join(f"{_time(facts[key][f'p{p}']):>10}" for p in _SHOWN))
    gaps = facts["between_tokens_s"]
    lines.append(f"{'between tokens':22}" + "".join(f"{_time(gaps[f'p{p}']):>10}" for p in _SHOWN))
    lines.append("")
    lines.append(f"tokens: {facts['tokens']:,}, {facts['tokens_per_s']:,.0f} a second, in {facts['deltas']:,} pieces")
    lines.append(
        f"connections: {facts['connections']}, {facts['reconnects']} after a drop, {facts['resumes']} of them to go on"
    )
    if facts["begun_anew"]:
        lines.append(f"begun anew, as their process was lost: {facts['begun_anew']}")
    if facts["unconfirmed"]:
        lines.append(f"asked again, as the connection broke before a word came: {facts['unconfirmed']}")
    if facts["refused"]:
        refused = ", ".join(f"{code} {count}" for code, count in sorted(facts["refused"].items()))
        lines.append(f"refused, and asked again later: {refused}")
    if facts["denied"]:
        lines.append(f"refused for good: {', '.join(f'{code} {n}' for code, n in sorted(facts['denied'].items()))}")
    lines.append("")
    faults = {kind: facts[kind] for kind in ("lost", "doubled", "hung")}
    verdict = ", ".join(f"{kind} {count}" for kind, count in faults.items())
    lines.append(f"{verdict}: {_verdict(facts, any(faults.values()))}")
    lines += [f"  {kind}, for one: {example or 'before it had an id'}" for kind, example in facts["examples"].items()]
    if facts["own_cpu"] > _BUSY:
        text = "asking took {:.0%} of a core: that, and not the server, may be what limits"
        lines.append(text.format(facts["own_cpu"]))
    return "\n".join(lines)


_BUSY = 0.8


def _verdict(facts: dict[str, Any], is_wrong: bool) -> str:
    if is_wrong:
        return "NOT every answer came whole"
    failed = sum(count for outcome, count in facts["ended"].items() if outcome.startswith("failed"))
    if failed:
        return f"what came, came whole; {'EVERY answer' if failed == facts['answers'] else failed} failed at the model"
    return "every answer came whole" if facts["answers"] else "no answer ended"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
