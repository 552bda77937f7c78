"""Charts of the speed benchmark: what must be in the picture, and that it is one."""

from __future__ import annotations

import itertools
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.speed import charts, result_charts

NAMESPACE = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> ElementTree.Element:
    """The picture's root; fails on what is no XML or has a number that is none."""
    root = ElementTree.fromstring(text)
    assert root.tag == f"{NAMESPACE}svg"
    numbers = " ".join(value for one in root.iter() for key, value in one.attrib.items() if key != "aria-label")
    assert "nan" not in numbers and "inf" not in numbers
    return root


def texts(text: str) -> list[str]:
    return [one.text or "" for one in drawn(text).iter(f"{NAMESPACE}text")]


def classed(text: str, name: str) -> list[dict[str, str]]:
    return [one.attrib for one in drawn(text).iter() if name in one.get("class", "").split()]


def markers(text: str) -> list[tuple[float, float]]:
    starts = (re.match(r"M([\d.]+) ([\d.]+)", one.get("d", "")) for one in classed(text, "bar"))
    return [(float(found[1]), float(found[2])) for found in starts if found]


def widths(text: str) -> list[float]:
    return [float(one["width"]) for one in classed(text, "bar") if "width" in one]


def result(**more: Any) -> dict[str, Any]:
    saturation = {
        "floor, openai": [{"tokens_per_core": 20_000.0}],
        "Grizz, WebSocket": [{"tokens_per_core": 18_000.0}],
        "another proxy": [{"tokens_per_core": 2_000.0}],
    }
    paced = {"direct": [{"ttft_p50_ms": 20.0, "ttft_p99_ms": 24.0}], "Grizz, SSE": [{"ttft_p50_ms": 21.0}]}
    runs = [{"rss_mib": 80.0, "cpu_us_per_token": 61.0}]
    points = [{"x": 0, "runs": runs}, {"x": 100, "runs": runs}]
    growth = {"streams": {"x": "streams at once", "points": points}}
    return {"version": 1, "speed": {"saturation": saturation, "paced": paced}, "growth": growth, "checks": []} | more


def test_a_picture_follows_light_and_dark_and_tells_its_title_to_who_cannot_see_it() -> None:
    picture = charts.svg("A title", 100, [])
    root = drawn(picture)
    assert (root.get("role"), root.get("aria-label"), root.get("viewBox")) == ("img", "A title", "0 0 960 100")
    assert "prefers-color-scheme: dark" in picture


def test_every_text_is_escaped_and_what_xml_cannot_hold_is_replaced() -> None:
    nasty = "<script>&\"'\x00\x1b\ud800"
    series = {nasty: [(1.0, 1.0, 2.0, 3.0)]}
    for picture in (
        charts.bars(nasty, [(nasty, 1, 2, 3)], nasty),
        charts.lines(nasty, series, nasty, nasty),
        charts.small_multiples(nasty, [charts.Lines(nasty, series, nasty, nasty)]),
    ):
        assert "<script" not in picture
        assert drawn(picture).get("aria-label") == "<script>&\"'\ufffd\ufffd\ufffd"
        assert picture.encode()


def test_a_bar_is_as_long_as_its_median_and_says_its_number() -> None:
    picture = charts.bars("Speed", [("a", 90, 100, 110), ("b", 190, 200, 220)], "tokens a second")
    short, long = widths(picture)
    assert long == pytest.approx(2 * short, abs=0.2)
    assert {"a", "b", "100", "200", "tokens a second"} <= set(texts(picture))
    assert len(classed(picture, "range")) == 2


def test_one_round_has_no_whisker() -> None:
    assert not classed(charts.bars("Speed", [("a", 5, 5, 5)], "s"), "range")
    assert not classed(charts.lines("Speed", {"a": [(1, 5, 5, 5)]}, "x", "s"), "reach")


@pytest.mark.parametrize("log", [False, True])
def test_a_zero_is_drawn_and_a_missing_value_is_called_so(log: bool) -> None:
    rows = [("none", None, None, None), ("zero", 0, 0, 0), ("much", 1, 10, 100), ("broken", 1, float("nan"), 2)]
    picture = charts.bars("Speed", rows, "s", log=log)
    assert texts(picture).count("not measured") == 2
    zero, much = widths(picture)
    assert 0 < zero < 3 < much


@pytest.mark.parametrize("rows", [[], [("zero", 0, 0, 0)], [("none", None, None, None)]])
@pytest.mark.parametrize("log", [False, True])
def test_bars_without_any_length_are_a_picture_all_the_same(rows: list[charts.Row], log: bool) -> None:
    assert "Speed" in texts(charts.bars("Speed", rows, "s", log=log))


def test_on_a_log_scale_each_tenfold_is_one_step() -> None:
    picture = charts.bars("Speed", [("a", 10, 10, 10), ("b", 100, 100, 100), ("c", 1000, 1000, 1000)], "s", log=True)
    one, two, three = widths(picture)
    assert two - one == pytest.approx(three - two, abs=0.2)
    assert {"10", "100", "1k"} <= set(texts(picture))


def test_a_long_name_is_cut_and_stays_in_the_picture() -> None:
    name = "every reply elsewhere, " * 20
    (shown,) = (text for text in texts(charts.bars("Speed", [(name, 1, 2, 3)], "s")) if text.startswith("every"))
    assert shown.endswith("…") and charts.text_width(shown) < 400


@pytest.mark.parametrize("top", [0.0, 0.003, 1, 4, 4.1, 9.99, 41, 999, 1000, 20_500, 3e6])
def test_an_axis_has_four_or_five_round_ticks_from_0_to_above_the_highest(top: float) -> None:
    found = charts.ticks(top)
    assert found[0] == 0 and found[-1] >= top * (1 - 1e-9) and len(found) in (4, 5)
    assert all(len(charts.short(step).rstrip("kM").replace(".", "").strip("0")) <= 3 for step in found[1:])


def test_ticks_are_short_and_numbers_have_three_digits() -> None:
    assert [charts.short(n) for n in (0, 0.25, 64, 999.99, 1000, 1024, 2_500_000, 3e9)] == [
        *("0", "0.25", "64", "1k", "1k", "1.024k", "2.5M", "3G")
    ]
    assert [charts.number(n) for n in (0, 0.0489, 1.234, 99.96, 20_500.4)] == ["0", "0.0489", "1.23", "100", "20,500"]


def test_lines_start_at_0_and_stand_by_their_logarithm() -> None:
    picture = charts.lines("Grown", {"a": [(x, 5, 5, 5) for x in (1, 10, 100)]}, "streams", "ms")
    xs = [x for x, _ in markers(picture)[1:]]  # the first is in the legend
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert {"0", "1", "10", "100", "a", "ms", "streams, log scale"} <= set(texts(picture))


def test_on_a_log_axis_an_x_of_0_stands_before_the_first_with_its_label() -> None:
    picture = charts.lines("Idle", {"a": [(0, 1, 1, 1), (10, 2, 2, 2), (1000, 3, 3, 3)]}, "sockets", "MiB")
    xs = [x for x, _ in markers(picture)[1:]]
    assert xs == sorted(xs) and xs[1] - xs[0] > 20
    labels = [(one.text, float(one.attrib["x"])) for one in drawn(picture).iter(f"{NAMESPACE}text")]
    assert ("0", xs[0]) in labels and ("10", xs[1]) in labels
    assert len(classed(picture, "apart")) == 1


@pytest.mark.parametrize(
    "line", [[], [(0, 0, 0, 0)], [(7, 1, 2, 3)], [(5, 4, 4, 4), (5, 4, 4, 4)], [(0, 1, 1, 1), (9, 1, 1, 1)]]
)
@pytest.mark.parametrize("log_x", [False, True])
def test_few_and_equal_points_are_drawn_inside_the_picture(line: list[charts.Point], log_x: bool) -> None:
    found = markers(charts.lines("Few", {"a": line}, "x", "s", log_x=log_x))[1:]
    assert len(found) == len(line)
    assert all(0 < x < 960 and 0 < y < 500 for x, y in found)


def test_labels_of_an_axis_never_overlap() -> None:
    points = [(float(x), 1.0, 1.0, 1.0) for x in (*range(90, 130), 1000, 1024, 1025)]
    picture = charts.lines("Dense", {"a": points}, "x", "s")
    ys = [one for one in drawn(picture).iter(f"{NAMESPACE}text") if one.get("text-anchor") == "middle"]
    labels = sorted((float(one.attrib["x"]), one.text or "") for one in ys if "scale" not in (one.text or ""))
    for (x, text), (next_x, next_text) in itertools.pairwise(labels):
        assert next_x - x > (charts.text_width(text) + charts.text_width(next_text)) / 2
    assert "1k" in [text for _, text in labels]


def test_small_multiples_keep_one_colour_for_one_series_and_lie_apart() -> None:
    line = [(1.0, 1.0, 1.0, 1.0)]
    one = charts.Lines("one", {"a": line, "b": line}, "x", "s")
    two = charts.Lines("two", {"b": line}, "x", "s")
    picture = charts.small_multiples("Both", [one, two])
    looks = [mark["class"] for mark in classed(picture, "bar")]  # two of the legend, then the points
    assert looks[1] == looks[3] == looks[4] != looks[0] == looks[2]
    assert markers(picture)[4][0] - markers(picture)[3][0] > 400


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (9, 3)])
def test_small_multiples_are_two_or_three_in_a_row(count: int, columns: int) -> None:
    line = {"a": [(1.0, 1.0, 1.0, 1.0)]}
    found = markers(charts.small_multiples("Many", [charts.Lines(str(n), line, "x", "s") for n in range(count)]))
    assert len(found) == count
    assert len({x for x, _ in found}) == columns


def test_a_result_becomes_three_pictures_with_a_colour_for_what_each_subject_is() -> None:
    made = result_charts.of_result(result())
    assert list(made) == ["speed.svg", "latency.svg", "growth.svg"]
    looks = [mark["class"] for mark in classed(made["speed.svg"], "bar") if "width" in mark]
    assert len(set(looks)) == 3
    assert {"floor", "Grizz", "others"} <= set(texts(made["speed.svg"]))
    assert {"median", "99th percentile", "direct"} <= set(texts(made["latency.svg"]))
    assert "CPU µs for each token" in texts(made["growth.svg"])


def test_a_growth_without_cpu_shows_the_first_metric_it_has() -> None:
    points = [{"x": 0, "runs": []}, {"x": 9, "runs": [{"odd_thing": 3.0, "rss_mib": 80.0}, {}]}]
    picture = result_charts.of_result(result(growth={"idle": {"x": "sockets", "points": points}}))["growth.svg"]
    assert "odd thing" in texts(picture)
    assert len(markers(picture)) == 1


def test_what_a_result_does_not_have_is_left_out() -> None:
    empty = {"x": "streams", "points": []}
    assert list(result_charts.of_result(result(growth={"streams": empty}))) == ["speed.svg", "latency.svg"]
    assert list(result_charts.of_result(result(growth={}))) == ["speed.svg", "latency.svg"]
    assert list(result_charts.of_result(result(speed={}))) == ["growth.svg"]
    assert result_charts.of_result({"version": 1}) == {}
    mixed = {"saturation": {"floor, openai": [{"rss_mib": 1.0}], "Grizz": [{"tokens_per_core": None}, {}]}}
    assert result_charts.of_result({"speed": mixed}) == {}


def test_a_metric_that_one_subject_lacks_leaves_the_others_in() -> None:
    shown = texts(result_charts.of_result(result())["latency.svg"])
    assert shown.count("direct") == 3  # the legend, the median, the 99th percentile
    assert shown.count("Grizz, SSE") == 1
