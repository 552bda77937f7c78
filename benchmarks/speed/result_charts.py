"""What a result of `make bench` looks like: file names and their SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.speed import charts

# What a metric is called beside an axis; others go by their own names.
UNITS = {
    "tokens_per_core": "tokens a second and core",
    "tokens_per_s": "tokens a second",
    "cpu_s_per_1000": "CPU seconds for 1,000 tokens",
    "cpu_us_per_token": "CPU µs for each token",
    "cpu_us_per_tab_frame": "CPU µs for each tab and frame",
    "ttft_p50_ms": "time to first token, median, ms",
    "ttft_p99_ms": "time to first token, 99th percentile, ms",
    "gap_p50_ms": "time between tokens, median, ms",
    "gap_p99_ms": "time between tokens, 99th percentile, ms",
    "rss_mib": "memory, MiB",
    "redis_commands_per_reply": "Redis commands for each reply",
}


def kind_of(subject: str) -> str:
    """Which of the kinds of subjects a measured subject is, by its name."""
    name = subject.casefold()
    return next((kind for kind in ("floor", "direct", "grizz") if name.startswith(kind)), "peer")


def of_result(result: Mapping[str, Any]) -> dict[str, str]:
    """File name to SVG of all that a result has: speed.svg, latency.svg and growth.svg."""
    made = {}
    loads = result.get("speed") or {}
    colours = {subject: charts.KINDS[kind_of(subject)] for load in loads.values() for subject in load}
    speed = _rows(loads.get("saturation") or {}, "tokens_per_core")
    if speed:
        made["speed.svg"] = charts.bars("Speed at saturation", speed, UNITS["tokens_per_core"], colours=colours)
    heads = {"median": "ttft_p50_ms", "99th percentile": "ttft_p99_ms"}
    latency = {head: _rows(loads.get("paced") or {}, metric) for head, metric in heads.items()}
    if latency := {head: rows for head, rows in latency.items() if rows}:
        made["latency.svg"] = charts.grouped_bars("Time to first token at a paced load", latency, "ms", colours=colours)
    grown = [chart for name, one in (result.get("growth") or {}).items() if (chart := _growth(name, one))]
    if grown:
        made["growth.svg"] = charts.small_multiples("What it costs as it grows", grown)
    return made


def _rows(subjects: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> list[charts.Row]:
    found = ((name, charts.spread(one.get(metric) for one in rounds)) for name, rounds in subjects.items())
    return [(name, *got) for name, got in found if got]


def _growth(name: str, series: Mapping[str, Any]) -> charts.Lines | None:
    """The CPU of a token over the series' x, or where that was not measured the first that was."""
    points = series.get("points") or []
    metrics = dict.fromkeys(metric for point in points for one in point["runs"] for metric in one)
    for metric in sorted(metrics, key=lambda metric: metric != "cpu_us_per_token"):
        found = [(point["x"], charts.spread(one.get(metric) for one in point["runs"])) for point in points]
        if line := [(x, *got) for x, got in found if got]:
            unit = UNITS.get(metric, metric.replace("_", " "))
            return charts.Lines(name, {metric: line}, series.get("x") or "", unit)
    return None
