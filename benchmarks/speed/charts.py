"""Charts of measurements as SVG text: pure, and the one style of every benchmark's pictures.

They follow the reader's light or dark and are drawn for a width of 960 px. A bar or point is a median; its whisker
reaches from the lowest to the highest round. This module imports nothing of its package, because scripts beside the
package import it too.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

Spread = tuple[float, float, float]  # lowest, median, highest
Row = tuple[str, float | None, float | None, float | None]  # name, lowest, median, highest; None: not measured
Point = tuple[float, float, float, float]  # x, lowest, median, highest

WIDTH, EDGE = 960, 16
STYLE = """\
svg { --back: #ffffff; --ink: #1f2328; --dim: #656d76; --line: #d8dee4 }
.b0 { color: #b35900 } .b1 { color: #9a7b00 } .b2 { color: #57606a } .b3 { color: #0969da } .b4 { color: #4b93e2 }
.b5 { color: #1a7f37 } .b6 { color: #8250df }
@media (prefers-color-scheme: dark) {
svg { --back: #0d1117; --ink: #e6edf3; --dim: #8d96a0; --line: #30363d }
.b0 { color: #e0823d } .b1 { color: #c9a227 } .b2 { color: #8b949e } .b3 { color: #4493f8 } .b4 { color: #2f6fbd }
.b5 { color: #3fb950 } .b6 { color: #a371f7 } }
text { font: 13px system-ui, sans-serif; fill: var(--ink) } .dim { fill: var(--dim); font-size: 12px }
.head { font-weight: 600 } .grid { stroke: var(--line) } .says { stroke: var(--ink); stroke-width: 2 }
.bar { fill: currentColor } .curve { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round }
.apart { stroke-dasharray: 2 5 } .range { fill: none; stroke: var(--ink); stroke-width: 1.5 }
.reach { fill: none; stroke: currentColor }"""

# Told apart without colours too: each its own marker, 9 px across, drawn from its middle.
MARKERS = (
    "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "m-4-4h8v8h-8z",
    "m0-5.5l5 9h-10z",
    "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
)
CURVES = (3, 0, 5, 6, 2, 1, 4)
# What a subject is: its colour and its word in the legend.
KINDS = {"floor": (2, "floor"), "direct": (5, "direct"), "grizz": (3, "Grizz"), "peer": (0, "others")}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Lines(NamedTuple):
    """What a line chart shows: see `lines`, which takes the same."""

    title: str
    series: Mapping[str, Sequence[Point]]
    x_title: str
    unit: str
    log_x: bool = True


class Axis(NamedTuple):
    """A scale of pixels: linear or logarithmic from `low` to `high`; a logarithmic one may have a 0 of its own."""

    start: float
    end: float
    low: float
    high: float
    log: bool = False
    zero: float | None = None

    def at(self, value: float) -> float:
        """The pixel of `value`, never outside the axis: whatever a logarithm cannot show is at its 0 or its start."""
        if self.log and value <= 0:
            return self.start if self.zero is None else self.zero
        if self.high <= self.low:
            return (self.start + self.end) / 2
        value, low, high = (math.log10(n) if self.log else n for n in (value, self.low, self.high))
        return self.start + (self.end - self.start) * min(1.0, max(0.0, (value - low) / (high - low)))


def spread(values: Iterable[Any]) -> Spread | None:
    """Lowest, median and highest of the finite numbers among `values`; None if there is none."""
    known = [value for value in values if is_number(value)]
    return (min(known), statistics.median(known), max(known)) if known else None


def is_number(value: object) -> bool:
    """Whether `value` can be drawn and compared: JSON as Python reads it may hold NaN or a whole number of any size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def number(value: float) -> str:
    """`value` in about three digits, thousands set apart."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 99.95 or value == 0 else f"{value:.3g}"


def short(value: float) -> str:
    """`value` for a tick: 2000 is 2k."""
    value = float(f"{value:.4g}")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def ticks(top: float, most: int = 4) -> list[float]:
    """Round numbers from 0 in at most `most` steps, and half as many at least; the last is `top` or above it."""
    top = top if top > 0 and math.isfinite(top) else 1.0
    power = 10.0 ** (math.floor(math.log10(top)) - 1)
    step = next(n * power for n in (1, 2, 2.5, 5, 10, 20, 25, 50, 100) if top <= most * n * power)
    return [n * step for n in range(math.ceil(top / step - 1e-9) + 1)]


def plain(text: str) -> str:
    """`text` as XML can hold it, in an element or an attribute."""
    return escape(_NOT_XML.sub("\ufffd", text))


def text_width(text: str, size: float = 12.0) -> float:
    """Pixels that `text` needs at most, nearly: no font is asked, the reader has another one anyway."""
    return sum(size * (1.0 if ord(letter) > 0x2E7F else 0.56) for letter in text)


def fitted(text: str, room: float, size: float = 12.0) -> str:
    """`text`, cut with an ellipsis where it would not fit into `room` pixels."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text."""
    kind = kind and f' class="{kind}"'
    anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}"{anchor}>{plain(text)}</text>'


def svg(title: str, height: float, marks: Iterable[str]) -> str:
    """A whole picture: background, title and `marks`, which are drawn from y = 40 on."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img"'
    back = f'<rect width="{WIDTH}" height="{height:g}" style="fill: var(--back)"/>'
    shown = words(EDGE, 28, fitted(title, WIDTH - 2 * EDGE, 13), "head")
    return "\n".join(
        [f'{head} aria-label="{plain(title)}">', f"<style>{STYLE}</style>{back}", shown, *marks, "</svg>\n"]
    )


def legend(entries: Sequence[tuple[str, int, str]], y: float) -> tuple[list[str], float]:
    """Name, colour and marker of each entry in rows that wrap; returns them and the y below."""
    marks, x = [], float(EDGE)
    for name, colour, marker in entries:
        name = fitted(name, WIDTH / 2)
        wide = 18 + text_width(name) + 18
        if x > EDGE and x + wide > WIDTH - EDGE:
            x, y = float(EDGE), y + 20
        marks.append(f'<path class="bar b{colour}" d="M{x + 6:.1f} {y + 7:.1f}{marker}"/>')
        marks.append(words(x + 18, y + 11, name, "dim"))
        x += wide
    return marks, y + 22 if entries else y


def bars(
    title: str, rows: Sequence[Row], unit: str, log: bool = False, colours: Mapping[str, tuple[int, str]] | None = None
) -> str:
    """Horizontal bars with the median's number, and a whisker from the lowest to the highest.

    `colours` gives each name a colour of STYLE and its word in the legend; without, all bars are alike.
    """
    return grouped_bars(title, {"": rows}, unit, log, colours)


def grouped_bars(
    title: str,
    groups: Mapping[str, Sequence[Row]],
    unit: str,
    log: bool = False,
    colours: Mapping[str, tuple[int, str]] | None = None,
) -> str:
    """As `bars`, in groups under headings that share one axis."""
    rows = [row for group in groups.values() for row in group]
    colours = colours or {}
    shown = {colours[row[0]] for row in rows if row[0] in colours}
    marks, y = legend([(word, colour, MARKERS[1]) for colour, word in KINDS.values() if (colour, word) in shown], 42)
    left = EDGE + 9 + min(380.0, max((text_width(row[0]) for row in rows), default=0))
    axis, steps = _bar_axis(rows, left, WIDTH - 100, log)
    top, drawn = y + 4, []
    y += 10
    for head, group in groups.items():
        if head:
            drawn.append(words(EDGE, y + 12, head, "head"))
            y += 22
        for row in group:
            drawn += _bar(row, axis, y, colours.get(row[0], (3, ""))[0])
            y += 22
        y += 8 if head else 0
    for step in steps:
        marks.append(f'<path class="grid" d="M{axis.at(step):.1f} {top:.1f}V{y:.1f}"/>')
        marks.append(words(axis.at(step), y + 16, short(step), "dim", "middle"))
    what = unit + (", log scale" if log else "")
    marks.append(words((axis.start + axis.end) / 2, y + 36, what, "dim", "middle"))
    return svg(title, math.ceil(y + 50), marks + drawn)


def _bar_axis(rows: Sequence[Row], left: float, right: float, log: bool) -> tuple[Axis, list[float]]:
    """From 0, or from the power of ten under the lowest, to above the highest; and its ticks."""
    known = [value for row in rows for value in row[1:] if value is not None and math.isfinite(value)]
    if not log:
        steps = ticks(max(known, default=0), most=6)
        top = max([*known, 0]) or steps[-1]
        return Axis(left, right, 0, top), [step for step in steps if step <= top]
    positive = [value for value in known if value > 0] or [1.0]
    first = math.floor(math.log10(min(positive)))
    # A bar that ends where the axis begins would look like nothing.
    first -= min(positive) == 10.0**first
    last = max(first + 1, math.ceil(math.log10(max(positive))))
    return Axis(left, right, 10.0**first, 10.0**last, log=True), [10.0**n for n in range(first, last + 1)]


def _bar(row: Row, axis: Axis, y: float, colour: int) -> Iterator[str]:
    name, low, middle, high = row
    yield words(axis.start - 8, y + 12, fitted(name, axis.start - 8 - EDGE), "dim", "end")
    if middle is None or not math.isfinite(middle):
        yield words(axis.start + 6, y + 12, "not measured", "dim")
        return
    end = max(axis.at(middle), axis.start + 2)
    box = f'x="{axis.start:.1f}" y="{y:.1f}" width="{end - axis.start:.1f}" height="15" rx="2"'
    yield f'<rect class="bar b{colour}" {box}/>'
    if low is not None and high is not None and low < high:
        low, high = axis.at(low), axis.at(high)
        yield f'<path class="range" d="M{low:.1f} {y + 4:.1f}v7m0-3.5H{high:.1f}m0-3.5v7"/>'
        end = max(end, high)
    yield words(end + 6, y + 12, number(middle))


def lines(title: str, series: Mapping[str, Sequence[Point]], x_title: str, unit: str, log_x: bool = True) -> str:
    """A line chart: medians joined, whiskers from lowest to highest, y from 0. On a log axis x = 0 stands before it."""
    marks, y = _curve_legend(series, 42)
    panel, height = _panel(Lines("", series, x_title, unit, log_x), (EDGE, y, WIDTH - 2 * EDGE, 330), list(series))
    return svg(title, math.ceil(y + height + 8), marks + panel)


def small_multiples(title: str, charts: Sequence[Lines]) -> str:
    """Line charts side by side, 2 or 3 in a row.

    Where one has several series, a series of the same name has the same colour in all of them.
    """
    several = any(len(chart.series) > 1 for chart in charts)
    names = list(dict.fromkeys(name for chart in charts for name in chart.series)) if several else []
    marks, y = _curve_legend(names, 42)
    columns = 3 if len(charts) == 3 or len(charts) > 4 else 2
    gap = 24
    wide = (WIDTH - 2 * EDGE - gap * (columns - 1)) / columns
    for row in range(0, len(charts), columns):
        tallest = 0.0
        for column, chart in enumerate(charts[row : row + columns]):
            panel, height = _panel(chart, (EDGE + column * (wide + gap), y, wide, 180), names)
            marks += panel
            tallest = max(tallest, height)
        y += tallest + 14
    return svg(title, math.ceil(y + 4), marks)


def _look(names: Sequence[str], name: str) -> tuple[int, str]:
    at = names.index(name) if name in names else 0
    return CURVES[at % len(CURVES)], MARKERS[at % len(MARKERS)]


def _curve_legend(names: Iterable[str], y: float) -> tuple[list[str], float]:
    known = list(names)
    return legend([(name, *_look(known, name)) for name in known], y)


def _panel(chart: Lines, box: tuple[float, float, float, float], names: Sequence[str]) -> tuple[list[str], float]:
    """One line chart whose plot is as high as `box` says, headings and axis besides; and the height of it all."""
    x, y, wide, plot = box
    marks, top = [], y
    if chart.title:
        marks.append(words(x, top + 14, fitted(chart.title, wide, 13.5), "head"))
        top += 20
    marks.append(words(x, top + 12, fitted(chart.unit, wide), "dim"))
    top += 26
    drawn = {name: sorted(_finite(line)) for name, line in chart.series.items()}
    points = [point for line in drawn.values() for point in line]
    steps = ticks(max((point[3] for point in points), default=0))
    left = x + 10 + max(text_width(short(step)) for step in steps)
    up = Axis(top + plot, top, 0, steps[-1])
    for step in steps:
        marks.append(f'<path class="grid" d="M{left:.1f} {up.at(step):.1f}H{x + wide:.1f}"/>')
        marks.append(words(left - 6, up.at(step) + 4, short(step), "dim", "end"))
    across = _across([point[0] for point in points], left + 14, x + wide - 14, chart.log_x)
    for value in _x_ticks([point[0] for point in points], across):
        marks.append(f'<path class="grid" d="M{across.at(value):.1f} {top + plot:.1f}v5"/>')
        marks.append(words(across.at(value), top + plot + 19, short(value), "dim", "middle"))
    what = fitted(chart.x_title + (", log scale" if across.log and across.low < across.high else ""), wide)
    marks.append(words((left + x + wide) / 2, top + plot + 37, what, "dim", "middle"))
    for name, line in drawn.items():
        marks += _curve(line, across, up, *_look(names, name))
    return marks, top + plot + 44 - y


def _finite(line: Iterable[Point]) -> list[Point]:
    return [point for point in line if all(map(math.isfinite, point))]


def _across(found: Sequence[float], left: float, right: float, log: bool) -> Axis:
    """The x axis of these points: a logarithm keeps a place at the left for 0, apart from the rest."""
    positive = [value for value in found if value > 0]
    if not log or not positive:
        return Axis(left, right, min(found, default=0), max(found, default=0))
    zero = left if len(positive) < len(found) else None
    if zero is None:
        return Axis(left, right, min(positive), max(positive), log=True)
    low, high = min(positive), max(positive)
    start = left + min(60, (right - left) / 6)
    return Axis(start, right, low if low < high else high / 10, high, log=True, zero=zero)


def _x_ticks(found: Sequence[float], axis: Axis) -> list[float]:
    """0 and the powers of ten, then the ends, then all points: as many as have room for their label."""
    if not found:
        return []
    wanted = [min(found), max(found)]
    if axis.log:
        least = min(value for value in found if value > 0)
        first, last = math.ceil(math.log10(least) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
        wanted = [0.0] * (axis.zero is not None) + [10.0**n for n in range(first, last + 1)] + wanted
    placed: list[float] = []
    for value in [*wanted, *found]:
        room = [(text_width(short(value)) + text_width(short(other))) / 2 + 10 for other in placed]
        if all(abs(axis.at(value) - axis.at(other)) >= far for other, far in zip(placed, room, strict=True)):
            placed.append(value)
    return placed


def _curve(points: Sequence[Point], across: Axis, up: Axis, colour: int, marker: str) -> Iterator[str]:
    for before, (x, _, middle, _) in zip(points, points[1:], strict=False):
        # From 0 to the logarithms is no distance: the line there says only what belongs together.
        apart = " apart" if across.zero is not None and before[0] <= 0 else ""
        start = f"{across.at(before[0]):.1f} {up.at(before[2]):.1f}"
        yield f'<path class="curve{apart} b{colour}" d="M{start}L{across.at(x):.1f} {up.at(middle):.1f}"/>'
    for x, low, middle, high in points:
        at = across.at(x)
        if low < high:
            yield f'<path class="reach b{colour}" d="M{at - 4:.1f} {up.at(low):.1f}h8m-4 0V{up.at(high):.1f}m-4 0h8"/>'
        yield f'<path class="bar b{colour}" d="M{at:.1f} {up.at(middle):.1f}{marker}"/>'
