"""Two results of the speed benchmark beside each other: `python -m benchmarks.speed.compare OLD.json NEW.json`.

Prints Markdown. Exits 1 when something became worse or a check that held no longer holds, 2 when the files cannot be
compared. Two runs of one machine can differ by half, and two machines by more; so what depends on the machine is
compared as a ratio to the floor, or in what it adds to the model asked directly, of the same round and load. Absolute
numbers stand beside. What has no such measure is compared as it is, and says so.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed.charts import Spread, is_number, number, spread

VERSION = 1
FLOOR, DIRECT = "floor, openai", "direct"
# By the beginning of a metric's name: what it is measured by.
BY_FLOOR = ("cpu_s_per_", "tokens_per_")
OVER_DIRECT = ("ttft_", "gap_")
# The one kind of metric of which more is better.
MORE_IS_BETTER = ("tokens_per_",)
# Milliseconds over direct: a smaller change is none, however many percent it is of next to nothing.
LEAST_MS = 0.1

Rounds = Sequence[Mapping[str, float]]
Place = tuple[str, str, str]  # load or series, subject or x, metric


class Unusable(Exception):
    """A file is no result that can be compared; the text says which and why."""


class Check(NamedTuple):
    """A promise as one run judged it."""

    value: float | None
    bound: str
    held: bool


@dataclass(frozen=True)
class Result:
    """What one file holds, its shape checked."""

    machine: Mapping[str, str]
    speed: Mapping[str, Mapping[str, Rounds]]
    growth: Mapping[str, Mapping[str, Rounds]]
    checks: Mapping[str, Check]


class Measured(NamedTuple):
    """One metric of one run: as it is compared, and as it was measured."""

    by: str
    compared: Spread | None
    absolute: Spread


class Change(NamedTuple):
    """A metric in both runs; `judged` is worse, better, same, or why it is not judged."""

    place: Place
    old: Measured
    new: Measured
    percent: float | None
    judged: str


@dataclass
class Comparison:
    """What two results say together."""

    changes: list[Change] = field(default_factory=list)
    checks: list[tuple[str, Check, Check]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def worse(self) -> bool:
        """Whether a metric became worse, or a check that held no longer holds."""
        return any(change.judged == "worse" for change in self.changes) or any(
            old.held and not new.held for _, old, new in self.checks
        )


def load(path: Path) -> Result:
    """The result in a file.

    Raises:
        Unusable: It cannot be read, or holds something else.
    """
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{path}: no JSON: {error}") from error
    try:
        return parse(raw)
    except Unusable as error:
        raise Unusable(f"{path}: {error}") from error


def parse(raw: object) -> Result:
    """A result as JSON has it. Parts may be missing, and values that are no finite numbers are left out.

    Raises:
        Unusable: It is of another version or shape.
    """
    top = _object(raw, "the result")
    if top.get("version") != VERSION:
        raise Unusable(f"version {top.get('version')!r}, but this compares version {VERSION}")
    speed = {
        name: {subject: _rounds(rounds, f"{name}, {subject}") for subject, rounds in _object(one, name).items()}
        for name, one in _object(top.get("speed"), "speed").items()
    }
    growth = {name: _points(name, one) for name, one in _object(top.get("growth"), "growth").items()}
    checks = {}
    for raw_check in _array(top.get("checks"), "checks"):
        one = _object(raw_check, "a check")
        bound = f"{'≥' if one.get('at_least') else '≤'} {_shown(one.get('bound'))} {one.get('unit') or ''}".strip()
        value = one.get("value")
        checks[str(one.get("name"))] = Check(value if is_number(value) else None, bound, one.get("held") is True)
    machine = _object(top.get("machine"), "machine")
    flat = {key: str(value) for key, value in machine.items() if key != "packages"}
    flat |= {key: str(value) for key, value in _object(machine.get("packages"), "packages").items()}
    return Result(flat, speed, growth, checks)


def _points(name: str, raw: object) -> dict[str, Rounds]:
    series = _object(raw, name)
    points = {}
    for raw_point in _array(series.get("points"), f"the points of {name}"):
        point = _object(raw_point, f"a point of {name}")
        points[f"{_shown(point.get('x'))} {series.get('x') or ''}".strip()] = _rounds(point.get("runs"), name)
    return points


def _object(raw: object, what: str) -> dict[str, Any]:
    if raw is not None and not isinstance(raw, dict):
        raise Unusable(f"{what} is no object")
    return raw or {}


def _array(raw: object, what: str) -> list[Any]:
    if raw is not None and not isinstance(raw, list):
        raise Unusable(f"{what}: no array")
    return raw or []


def _rounds(raw: object, what: str) -> Rounds:
    rounds = (_object(one, f"a round of {what}") for one in _array(raw, what))
    return [{metric: value for metric, value in one.items() if is_number(value)} for one in rounds]


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def measured(subjects: Mapping[str, Rounds], subject: str, metric: str) -> Measured | None:
    """A metric of one subject at one load, set against the floor or direct in the same rounds; None if not there."""
    rounds = subjects[subject]
    absolute = spread(one.get(metric) for one in rounds)
    if absolute is None:
        return None
    ratio = metric.startswith(BY_FLOOR)
    if not ratio and not metric.startswith(OVER_DIRECT):
        return Measured("absolute", absolute, absolute)
    base, by = (FLOOR, "ratio to the floor") if ratio else (DIRECT, "ms over direct")
    if subject == base:
        return Measured("the measure", None, absolute)
    pairs = [
        (one[metric], other[metric])
        for one, other in zip(rounds, subjects.get(base, ()), strict=False)
        if metric in one and metric in other
    ]
    found = spread(a / b for a, b in pairs if b) if ratio else spread(a - b for a, b in pairs)
    return Measured(by if found else f'no "{base}" beside it', found, absolute)


def judge(metric: str, old: Measured, new: Measured, worse: float) -> tuple[float | None, str]:
    """The change of the medians in percent, and what it is.

    Only ranges that lie apart together with medians that differ by more than `worse` percent are more than noise.
    """
    if old.compared is None or new.compared is None:
        return None, new.by if new.compared is None else old.by
    (low, middle, high), (new_low, new_middle, new_high) = old.compared, new.compared
    apart = new_low > high or new_high < low
    change = new_middle - middle
    percent = 100 * change / abs(middle) if middle else math.copysign(math.inf, change) if change else 0.0
    least = LEAST_MS if metric.startswith(OVER_DIRECT) else 0.0
    if not apart or abs(percent) <= worse or abs(change) < least:
        return percent, "same"
    return percent, "better" if (change > 0) == metric.startswith(MORE_IS_BETTER) else "worse"


def every(result: Result) -> Iterator[tuple[Place, Measured]]:
    """All that a result measured, each with its place; growth is absolute, for nothing ran beside it."""
    for name, subjects in result.speed.items():
        for subject, rounds in subjects.items():
            for metric in dict.fromkeys(metric for one in rounds for metric in one):
                if found := measured(subjects, subject, metric):
                    yield (name, subject, metric), found
    for name, points in result.growth.items():
        for x, runs in points.items():
            for metric in dict.fromkeys(metric for one in runs for metric in one):
                if absolute := spread(one.get(metric) for one in runs):
                    yield (f"growth: {name}", x, metric), Measured("absolute", absolute, absolute)


def compare(old: Result, new: Result, worse: float = 10.0) -> Comparison:
    """What became of the old result; `worse` is in percent.

    Raises:
        Unusable: The two have nothing in common.
    """
    before, after = dict(every(old)), dict(every(new))
    found = Comparison(warnings=list(_warnings(old, new)))
    for place, was in before.items():
        if place in after:
            percent, judged = judge(place[2], was, after[place], worse)
            found.changes.append(Change(place, was, after[place], percent, judged))
    found.checks = [(name, was, new.checks[name]) for name, was in old.checks.items() if name in new.checks]
    if not found.changes and not found.checks:
        raise Unusable("the two results share nothing: no load, subject, metric, growth point or check")
    if lost := [
        ", ".join(one.place) for one in found.changes if (one.old.compared is None) != (one.new.compared is None)
    ]:
        found.warnings.append(f"not compared, because only one result has what it is measured by: {_some(lost)}")
    for title, one, other in (("old", before, after), ("new", after, before)):
        if alone := [", ".join(place) for place in one if place not in other]:
            found.warnings.append(f"only the {title} result has {_some(alone)}")
    return found


def _some(names: Sequence[str], most: int = 5) -> str:
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _warnings(old: Result, new: Result) -> Iterator[str]:
    for key in dict.fromkeys([*old.machine, *new.machine]):
        was, now = old.machine.get(key, "nothing"), new.machine.get(key, "nothing")
        if was != now:
            yield f"{key} differs: {was}, now {now}"
    for title, result in (("old", old), ("new", new)):
        if any(len(rounds) == 1 for load in result.speed.values() for rounds in load.values()):
            yield f"the {title} result has subjects of one round: no range tells noise from change there"
    if gone := [name for name in old.checks if name not in new.checks]:
        yield f"no longer checked: {', '.join(gone)}"
    for name, check in new.checks.items():
        if name not in old.checks and not check.held:
            yield f"a check that is new does not hold: {name}"


def markdown(found: Comparison, worse: float) -> str:
    """The comparison as Markdown: warnings, a table of metrics, a table of checks, and the outcome."""
    lines = [f"* Warning: {warning}" for warning in found.warnings]
    if found.changes:
        head = ("load", "subject", "metric", "old", "new", "change %", "compared as", "old, absolute", "new, absolute")
        lines += ["", _row(head), "|---" * len(head) + "|", *map(_line, found.changes)]
        lines += ["", f"Median [range]. Worse or better: the ranges lie apart and the medians by over {worse:g} %."]
    if found.checks:
        lines += ["", _row(("check", "bound", "old", "new", "")), "|---" * 5 + "|"]
        for name, old, new in found.checks:
            state = "held" if new.held else "**no longer holds**" if old.held else "does not hold, as before"
            values = ("–" if one.value is None else number(one.value) for one in (old, new))
            lines.append(_row((name, new.bound, *values, state)))
    counts = {word: sum(change.judged == word for change in found.changes) for word in ("worse", "better", "same")}
    broken = sum(old.held and not new.held for _, old, new in found.checks)
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    return "\n".join([*lines, "", f"{told}; checks that no longer hold: {broken}."]).lstrip("\n")


def _line(change: Change) -> str:
    old, new = change.old, change.new
    judged = "–"
    if change.percent is not None:
        far = abs(change.percent) >= 1000
        percent = f"over {math.copysign(1000, change.percent):+.0f}" if far else f"{change.percent:+.1f}"
        judged = f"{percent} {'**worse**' if change.judged == 'worse' else change.judged}"
    by = new.by if new.compared is None else old.by
    sides = (_range(old.compared), _range(new.compared))
    return _row((*change.place, *sides, judged, by, _range(old.absolute), _range(new.absolute)))


def _range(found: Spread | None) -> str:
    if found is None:
        return "–"
    low, middle, high = map(number, found)
    return f"{middle} [{low} to {high}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _percent(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError("a percentage from 0 on")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two files; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.compare", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument("--worse", type=_percent, default=10.0, help="percent from which on a change counts (10)")
    options = parser.parse_args(argv)
    try:
        found = compare(load(options.old), load(options.new), options.worse)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown(found, options.worse))
    return 1 if found.worse else 0


if __name__ == "__main__":
    sys.exit(main())
