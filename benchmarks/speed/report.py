"""What was measured, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.speed.checks import Check, Rounds
from benchmarks.speed.subjects import DIRECT, FLOOR

# Metric → how its column is called, and its digits.
_ABSOLUTE = {
    "tokens_per_s": ("tokens/s", 0),
    "tokens_per_core": ("tokens/s per core", 0),
    "cpu_s_per_1000": ("CPU s per 1,000 tokens", 4),
    "ttft_p50_ms": ("first token p50, ms", 1),
    "ttft_p99_ms": ("p99", 1),
    "gap_p50_ms": ("between pieces p50, ms", 1),
    "gap_p99_ms": ("p99", 1),
    "rss_mib": ("RSS, MiB", 0),
    "redis_commands_per_reply": ("Redis commands per answer", 1),
}
_OVER = {
    "ttft_p50_ms": "first token p50, ms",
    "ttft_p99_ms": "p99",
    "late_p50_ms": "every token p50, ms",
    "late_p99_ms": "p99",
}


def spread(values: Sequence[float], digits: int) -> str:
    """The median and, in brackets, the range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f} to {high:,.{digits}f}]"


def absolute(subjects: Mapping[str, Rounds]) -> str:
    """One load in numbers of this machine."""
    titles = [title for title, _ in _ABSOLUTE.values()]
    rows = [
        [
            name,
            *(
                _cell([run[metric] for run in rounds if metric in run], digits)
                for metric, (_, digits) in _ABSOLUTE.items()
            ),
        ]
        for name, rounds in subjects.items()
    ]
    return table(["", *titles], rows)


def ratios(subjects: Mapping[str, Rounds]) -> str:
    """One load as ratios to the floor and times beyond the model's own, round by round."""
    floor, direct = subjects[FLOOR], subjects[DIRECT]
    rows = []
    for name, rounds in subjects.items():
        if name != DIRECT:
            part = [
                a["tokens_per_core"] / b["tokens_per_core"]
                for a, b in zip(rounds, floor, strict=True)
                if "tokens_per_core" in a
            ]
            late = [
                [a[metric] - b[metric] for a, b in zip(rounds, direct, strict=True) if metric in a] for metric in _OVER
            ]
            rows.append([name, _cell(part, 2), *(_cell(values, 1) for values in late)])
    return table(["", "tokens/s per core, of the floor's", *_OVER.values()], rows)


def growth(series: Mapping[str, Any]) -> str:
    """One series."""
    metrics = list(dict.fromkeys(metric for point in series["points"] for run in point["runs"] for metric in run))
    rows = [
        [f"{point['x']:,}", *(_cell([run[metric] for run in point["runs"] if metric in run], 2) for metric in metrics)]
        for point in series["points"]
    ]
    return table([series["x"], *(metric.replace("_", " ") for metric in metrics)], rows)


def promises(checks: Sequence[Check]) -> str:
    """Every promise, and whether it held."""
    rows = []
    for check in checks:
        allowed = f"{'≥' if check.at_least else '≤'} {check.bound:,g} {check.unit}".rstrip()
        rows.append(
            [check.name, f"{check.value:,.4g} {check.unit}".rstrip(), allowed, "yes" if check.held else "**no**"]
        )
    return table(["promise", "measured", "allowed", "held"], rows)


def whole(result: Mapping[str, Any], checks: Sequence[Check]) -> Iterator[str]:
    """Everything, in parts to be printed."""
    machine = result["machine"]
    yield f"{result['at']}, {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}."
    for load, subjects in result["speed"].items():
        described = result["loads"][load]
        yield f"## {load}: {described}\n\n{absolute(subjects)}\n\n{ratios(subjects)}"
    for name, series in result["growth"].items():
        yield f"## As work grows: {name}\n\n{growth(series)}"
    yield f"## Promises\n\n{promises(checks)}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    return spread(values, digits) if len(values) > 1 else f"{values[0]:,.{digits}f}"
