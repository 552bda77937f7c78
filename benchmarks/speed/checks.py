"""The promises about speed, judged on what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.speed.subjects import BARE_FLOOR, DIRECT, FLOOR, LOCAL, REMOTE, WEBSOCKET

Rounds = Sequence[Mapping[str, float]]


class Check(NamedTuple):
    """One promise.

    Attributes:
        at_least: is the bound the least, and not the most?
    """

    name: str
    value: float
    bound: float
    at_least: bool = False
    unit: str = ""

    @property
    def held(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"held": self.held}


def ratio(over: Rounds, under: Rounds, metric: str) -> float:
    """The median of one subject's ratios to another, round by round."""
    pairs = [(a, b) for a, b in zip(over, under, strict=True) if metric in a and metric in b]
    return statistics.median(a[metric] / b[metric] for a, b in pairs) if pairs else math.nan


def beyond(subject: Rounds, base: Rounds, metric: str) -> float:
    """The median of one subject's differences to another, round by round."""
    return statistics.median(a[metric] - b[metric] for a, b in zip(subject, base, strict=True))


def of_speed(speed: Mapping[str, Mapping[str, Rounds]]) -> Iterator[Check]:
    """What the loads show."""
    full, steady, paced = speed["saturation"], speed["steady"], speed["paced"]
    core = "tokens_per_core"
    for floor in (FLOOR, BARE_FLOOR):
        of_floor = ratio(full[WEBSOCKET], full[floor], core)
        yield Check(f"tokens/s per core at saturation, of the {floor}'s", of_floor, 0.8, True)
    if _median(full[FLOOR], core) >= 27_000:
        yield Check("tokens/s per core at saturation", _median(full[WEBSOCKET], core), 20_000, True)
    cpu_s = _median(steady[WEBSOCKET], "cpu_s_per_1000")
    yield Check("CPU seconds for 1,000 tokens at 10,000 tokens/s", cpu_s, 0.13, unit="s")
    for name, bound in (("p50", 5), ("p99", 15)):
        late = beyond(paced[WEBSOCKET], paced[DIRECT], f"ttft_{name}_ms")
        yield Check(f"first token after the model's, {name}, 50 answers of 50 tokens/s", late, bound, unit="ms")
    yield Check("two nodes, answers remote, of local", ratio(full[REMOTE], full[LOCAL], core), 0.6, True)
    if litellm := [_median(rounds, core) for name, rounds in full.items() if name.startswith("LiteLLM, ")]:
        yield Check("times LiteLLM", _median(full[WEBSOCKET], core) / max(litellm), 12, True)
    wrong = sum(run["wrong"] for subjects in speed.values() for rounds in subjects.values() for run in rounds)
    yield Check("answers with a lost, doubled or changed word", wrong, 0)
    ours = [rounds for subjects in speed.values() for name, rounds in subjects.items() if name.startswith("Grizz")]
    yield Check("answers of Grizz that did not end", sum(run["cut"] for rounds in ours for run in rounds), 0)


def of_growth(growth: Mapping[str, Any]) -> Iterator[Check]:
    """Does a token cost the same, however much there is?"""
    for name, beginning, most in (
        # From where waking up for one token alone, or starting an answer, is not the most of it any more.
        ("streams", 100, 1.3),
        ("reply length", 1000, 1.3),
        ("idle sockets", 0, 1.5),
        ("queue", 0, 1.5),
    ):
        if name in growth:
            points = _points(growth[name], "cpu_us_per_token")
            last = max(points)
            text = f"a token's CPU with {last:,} {growth[name]['x']}, of that with {beginning:,}"
            yield Check(text, points[last] / points[beginning], most)
    if "queue" in growth:
        points = _points(growth["queue"], "cpu_us_per_job_put")
        yield Check(
            f"a job's CPU to queue it behind {max(points):,}, of that behind none", points[max(points)] / points[0], 1.5
        )
    if "history" in growth:
        points = _points(growth["history"], "cpu_us_per_turn")
        early, late = (points[100] - points[10]) / 90, (points[1000] - points[100]) / 900
        grown = late / early if early > 0 and late > 0 else math.inf  # else it was not measured, but noise
        yield Check(
            "what a turn's CPU grows by for each turn before it, 100 to 1,000, of that from 10 to 100", grown, 1.5
        )
    if "tabs" in growth:
        points = _points(growth["tabs"], "of_bare")
        yield Check("CPU for each tab and frame, 500 tabs, of bare aiohttp's", points[500], 1.5)


def _points(series: Mapping[str, Any], metric: str) -> dict[int, float]:
    return {point["x"]: _median(point["runs"], metric) for point in series["points"] if metric in point["runs"][0]}


def _median(rounds: Rounds, metric: str) -> float:
    """Not a number where no round has it: then no promise holds."""
    found = [run[metric] for run in rounds if metric in run]
    return statistics.median(found) if found else math.nan
