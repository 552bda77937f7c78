"""Comparing two results of the speed benchmark: what is worse, what is noise, what cannot be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.compare import Change, Unusable, compare, main, markdown, parse

FLOOR, GRIZZ = "floor, openai", "Grizz, WebSocket"


def result(load: dict[str, list[dict[str, Any]]] | None = None, **more: Any) -> dict[str, Any]:
    """A result as JSON has it; `load` is what was measured at the load "paced"."""
    machine = {"cpu": "one", "cores": 2, "python": "3.11.7", "packages": {"aiohttp": "3.14.5"}}
    return {"version": 1, "machine": machine, "speed": {"paced": load or {}}, "growth": {}, "checks": []} | more


def rounds(metric: str, *values: Any) -> list[dict[str, Any]]:
    return [{metric: value} for value in values]


def beside_floor(grizz: tuple[float, ...], floor: tuple[float, ...], metric: str = "cpu_s_per_1000") -> dict[str, Any]:
    return result({FLOOR: rounds(metric, *floor), GRIZZ: rounds(metric, *grizz)})


def over_direct(grizz: tuple[float, ...], direct: tuple[float, ...], metric: str = "ttft_p50_ms") -> dict[str, Any]:
    return result({"direct": rounds(metric, *direct), GRIZZ: rounds(metric, *grizz)})


def absolute(*values: Any, metric: str = "rss_mib") -> dict[str, Any]:
    return result({GRIZZ: rounds(metric, *values)})


def growth(*points: tuple[float, list[float]]) -> dict[str, Any]:
    found = [{"x": x, "runs": rounds("cpu_us_per_token", *runs)} for x, runs in points]
    return {"growth": {"streams": {"x": "streams at once", "points": found}}}


def check(held: bool, name: str = "ratio") -> dict[str, Any]:
    return {"name": name, "value": 0.93, "bound": 0.8, "at_least": True, "unit": "", "held": held}


def changes(old: dict[str, Any], new: dict[str, Any], worse: float = 10.0) -> dict[str, Change]:
    return {change.place[1]: change for change in compare(parse(old), parse(new), worse).changes}


def judged(old: dict[str, Any], new: dict[str, Any], worse: float = 10.0) -> str:
    return changes(old, new, worse)[GRIZZ].judged


def saved(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_machine_of_half_the_speed_makes_nothing_worse() -> None:
    old = beside_floor((0.05, 0.06, 0.05), (0.04, 0.048, 0.04))
    new = beside_floor((0.10, 0.12, 0.10), (0.08, 0.096, 0.08))
    change = changes(old, new)[GRIZZ]
    assert (change.judged, change.percent) == ("same", pytest.approx(0.0))
    assert change.old.compared == pytest.approx((1.25, 1.25, 1.25))
    assert change.new.absolute == (0.10, 0.10, 0.12)


def test_more_cpu_beside_the_same_floor_is_worse_and_less_is_better() -> None:
    light, heavy = beside_floor((0.05, 0.051), (0.04, 0.04)), beside_floor((0.07, 0.071), (0.04, 0.04))
    assert (judged(light, heavy), judged(heavy, light)) == ("worse", "better")


def test_of_tokens_a_core_more_is_better() -> None:
    metric = "tokens_per_core"
    slow, fast = beside_floor((10.0, 11.0), (20.0, 20.0), metric), beside_floor((16.0, 17.0), (20.0, 20.0), metric)
    assert (judged(slow, fast), judged(fast, slow)) == ("better", "worse")


def test_a_ratio_is_taken_within_a_round() -> None:
    old = beside_floor((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    assert changes(old, old)[GRIZZ].old.compared == (1.0, 1.0, 1.0)


def test_a_wait_is_compared_in_what_it_adds_to_the_model_asked_directly() -> None:
    old, same = over_direct((22.0, 22.5), (20.0, 20.0)), over_direct((52.0, 52.5), (50.0, 50.0))
    change = changes(old, same)[GRIZZ]
    assert (change.judged, change.old.compared) == ("same", (2.0, 2.25, 2.5))
    assert judged(old, over_direct((25.0, 25.5), (20.0, 20.0))) == "worse"


def test_a_hair_over_direct_is_no_change_however_many_percent_it_is() -> None:
    assert judged(over_direct((20.01,), (20.0,)), over_direct((20.05,), (20.0,))) == "same"
    assert judged(over_direct((20.01,), (20.0,)), over_direct((20.5,), (20.0,))) == "worse"


def test_ranges_that_overlap_are_noise_however_far_the_medians() -> None:
    assert judged(absolute(80, 81, 130), absolute(125, 128, 131)) == "same"
    assert judged(absolute(80, 81, 125), absolute(125, 128, 131)) == "same"
    assert judged(absolute(80, 81, 124), absolute(125, 128, 131)) == "worse"


def test_medians_that_are_near_are_the_same_though_the_ranges_lie_apart() -> None:
    old, new = absolute(100, 100.5, 101), absolute(105, 105.5, 106)
    assert judged(old, new) == "same"
    assert judged(old, new, worse=4) == "worse"


def test_a_median_that_was_0_can_become_worse() -> None:
    change = changes(absolute(0, 0, metric="wrong"), absolute(1, 2, metric="wrong"))[GRIZZ]
    assert change.judged == "worse"
    found = compare(parse(absolute(0, metric="wrong")), parse(absolute(1, metric="wrong")))
    assert "over +1000 **worse**" in markdown(found, 10)


def test_the_floor_is_the_measure_and_is_not_judged() -> None:
    change = changes(beside_floor((1.0,), (1.0,)), beside_floor((9.0,), (9.0,)))[FLOOR]
    assert (change.judged, change.percent) == ("the measure", None)


def test_without_a_floor_beside_it_a_ratio_is_shown_and_not_judged() -> None:
    alone = result({GRIZZ: rounds("cpu_s_per_1000", 9.0)})
    found = compare(parse(beside_floor((1.0,), (1.0,))), parse(alone))
    (change,) = found.changes
    assert change.judged == 'no "floor, openai" beside it'
    assert any("not compared" in warning and GRIZZ in warning for warning in found.warnings)
    assert not found.worse


def test_rounds_without_the_metric_or_with_nan_are_left_out() -> None:
    old = beside_floor((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    new = copy.deepcopy(old)
    new["speed"]["paced"][GRIZZ] = [{}, {"cpu_s_per_1000": float("nan")}, {"cpu_s_per_1000": 1.5}]
    new["speed"]["paced"][FLOOR][0] = {"cpu_s_per_1000": 0}
    assert changes(old, new)[GRIZZ].new.compared == (1.5, 1.5, 1.5)


def test_growth_is_compared_by_x_and_absolute() -> None:
    old = result(**growth((1, [60, 61]), (100, [60, 61]), (500, [60])))
    new = result(**growth((1, [60, 62]), (100, [90, 91])))
    found = compare(parse(old), parse(new))
    assert {change.place[1]: change.judged for change in found.changes} == {
        "1 streams at once": "same",
        "100 streams at once": "worse",
    }
    assert {change.old.by for change in found.changes} == {"absolute"}
    assert "only the old result has growth: streams, 500 streams at once, cpu_us_per_token" in found.warnings


def test_an_empty_growth_is_nothing_to_compare() -> None:
    empty = {"streams": {"x": "streams", "points": []}, "idle": {}}
    assert len(compare(parse(absolute(1) | {"growth": empty}), parse(absolute(1))).changes) == 1


def test_a_result_of_one_round_is_compared_with_a_warning() -> None:
    found = compare(parse(absolute(80)), parse(absolute(100, 101)))
    assert found.worse
    assert [warning for warning in found.warnings if "one round" in warning] == [
        "the old result has subjects of one round: no range tells noise from change there"
    ]


def test_a_check_that_held_and_no_longer_does_is_worse_and_one_that_never_did_is_not() -> None:
    held, broken = parse(result(checks=[check(True)])), parse(result(checks=[check(False)]))
    assert compare(held, broken).worse
    assert "no longer holds" in markdown(compare(held, broken), 10)
    assert not compare(broken, broken).worse
    assert not compare(broken, held).worse


def test_checks_that_came_or_went_are_told() -> None:
    old = parse(result(checks=[check(True), check(True, "gone")]))
    new = parse(result(checks=[check(True), check(False, "came")]))
    found = compare(old, new)
    assert found.warnings == ["no longer checked: gone", "a check that is new does not hold: came"]
    assert not found.worse


def test_another_machine_python_or_package_is_told() -> None:
    other = {"cpu": "two", "cores": 2, "python": "3.12.1", "packages": {"aiohttp": "3.14.6", "orjson": "3.13"}}
    found = compare(parse(absolute(1, 1)), parse(absolute(1, 1) | {"machine": other}))
    assert found.warnings == [
        "cpu differs: one, now two",
        "python differs: 3.11.7, now 3.12.1",
        "aiohttp differs: 3.14.5, now 3.14.6",
        "orjson differs: nothing, now 3.13",
    ]


def test_two_results_that_share_nothing_cannot_be_compared() -> None:
    with pytest.raises(Unusable, match="share nothing"):
        compare(parse(absolute(1)), parse(result({"another": rounds("rss_mib", 1)})))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ([], "the result is no object"),
        ({}, "version None"),
        ({"version": 2}, "version 2, but this compares version 1"),
        ({"version": 1, "speed": []}, "speed is no object"),
        ({"version": 1, "speed": {"paced": {"a": 3}}}, "paced, a"),
        ({"version": 1, "growth": {"idle": {"points": [7]}}}, "a point of idle"),
        ({"version": 1, "checks": {"a": 1}}, "checks"),
    ],
)
def test_another_version_or_shape_is_refused(raw: object, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        parse(raw)


def test_cells_of_the_table_cannot_break_it() -> None:
    name = "a | b\nc"
    found = compare(parse(result({name: rounds("rss_mib", 1)})), parse(result({name: rounds("rss_mib", 1)})))
    (line,) = (line for line in markdown(found, 10).splitlines() if line.startswith("| paced"))
    assert "a \\| b c" in line


def test_the_command_prints_a_table_and_exits_1_when_something_became_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (saved(tmp_path, f"{n}.json", absolute(n, n + 1)) for n in (80, 100))
    assert main([old, new]) == 1
    printed = capsys.readouterr().out
    assert f"| paced | {GRIZZ} | rss_mib | 80.5 [80 to 81] | 100 [100 to 101] | +24.8 **worse** | absolute |" in printed
    assert "1 worse, 0 better, 0 same; checks that no longer hold: 0." in printed
    assert main([old, new, "--worse", "30"]) == 0
    assert main([new, old]) == 0


@pytest.mark.parametrize("content", ["", "{", "\x00", '{"version": 2}', '"text"', "[" * 100_000])
def test_a_file_that_is_no_result_exits_2_and_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = saved(tmp_path, "good.json", absolute(1)), saved(tmp_path, "bad.json", content)
    assert main([good, bad]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{bad}: ") and not printed.out


def test_files_that_are_not_there_or_share_nothing_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, other = saved(tmp_path, "good.json", absolute(1)), saved(tmp_path, "other.json", result())
    assert main([good, str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err
    assert main([good, other]) == 2
    assert "share nothing" in capsys.readouterr().err


@pytest.mark.parametrize("percent", ["-1", "nan", "much"])
def test_a_percentage_that_is_none_is_refused(percent: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["a", "b", "--worse", percent])
    assert stopped.value.code == 2
