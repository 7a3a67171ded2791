"""Where things stand in a plot: numbers in, positions in an SVG out. templates/plots.html draws them.

Every plot is WIDE × HIGH units, which are pixels in a column of a page at its usual width. It knows nothing of what the
numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from moderation.estimates import Interval

WIDE, HIGH = 540, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 24
# A row of an interval plot, and what stands left of its line.
ROW, NAMES = 34, 150
TICKS = 4
DAYS_NAMED = 6
SECONDS = {
    **{0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 0.3: "0.3 s", 1.0: "1 s", 3.0: "3 s", 10.0: "10 s", 30.0: "30 s"},
    **{60.0: "1 min", 180.0: "3 min", 600.0: "10 min", 1800.0: "30 min", 3600.0: "1 h", 10_800.0: "3 h"},
    **{
        36_000.0: "10 h",
        86_400.0: "1 d",
        259_200.0: "3 d",
        864_000.0: "10 d",
        2_592_000.0: "30 d",
        1e9: "30 y",
        1e10: "300 y",
    },
}


@dataclass(frozen=True)
class Series:
    """Numbers with a name and a tone (a class of static/insight.css); one a day, None where there is none."""

    name: str
    tone: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and what it says."""

    at: float
    words: str


@dataclass(frozen=True)
class Box:
    """A filled part of a bar."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    words: str


@dataclass(frozen=True)
class Curve:
    """A line as an SVG path, broken where there are no numbers, with the points that no line would show."""

    path: str
    dots: list[tuple[float, float]]
    tone: str


@dataclass(frozen=True)
class Plot:
    """A plot over days, or of intervals: what is drawn in it and its axes."""

    kind: str
    high: float
    legend: list[Series]
    x: list[Tick]
    y: list[Tick]
    boxes: list[Box]
    curves: list[Curve]
    rows: list[Row]


@dataclass(frozen=True)
class Mark:
    """A value with its interval in a row; `at` None where there is only something to say."""

    words: str
    tone: str
    at: float | None = None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Row:
    """A line of an interval plot."""

    name: str
    y: float
    marks: list[Mark]


def bars(days: Sequence[date], series: Sequence[Series]) -> Plot:
    """Stacked bars, one a day."""
    totals = [sum(one.values[n] or 0 for one in series) for n in range(len(days))]
    top, ticks = _ticks(max(totals, default=0))
    slot = (WIDE - LEFT - RIGHT) / max(1, len(days))
    boxes = []
    for number, day in enumerate(days):
        foot = float(HIGH - BOTTOM)
        for one in series:
            value = one.values[number] or 0
            high = value / top * (HIGH - TOP - BOTTOM)
            foot -= high
            if value:
                words = f"{day:%-d %B}: {value:,.0f} {one.name}"
                boxes.append(Box(LEFT + (number + 0.1) * slot, foot, 0.8 * slot, high, one.tone, words))
    return Plot("bars", HIGH, list(series), _days(days), ticks, boxes, [], [])


def lines(days: Sequence[date], series: Sequence[Series]) -> Plot:
    """A line for each series, from zero."""
    top, ticks = _ticks(max((value for one in series for value in one.values if value is not None), default=0))

    def height(value: float) -> float:
        return HIGH - BOTTOM - value / top * (HIGH - TOP - BOTTOM)

    curves = [_curve(one, len(days), height) for one in series]
    return Plot("lines", HIGH, list(series), _days(days), ticks, [], curves, [])


def shares(days: Sequence[date], series: Sequence[Series]) -> Plot:
    """A line for each series of shares, 0 to 1, from the tenth below the lowest up to all."""
    low = min((value for one in series for value in one.values if value is not None), default=0.0)
    low = min(0.9, math.floor(low * 10) / 10)

    def height(value: float) -> float:
        return HIGH - BOTTOM - (value - low) / (1 - low) * (HIGH - TOP - BOTTOM)

    step = 0.05 if low >= 0.7 else 0.1 if low >= 0.4 else 0.2
    values = [low + step * n for n in range(round((1 - low) / step) + 1)]
    ticks = [Tick(height(value), f"{value:.0%}") for value in values]
    curves = [_curve(one, len(days), height) for one in series]
    return Plot("lines", HIGH, list(series), _days(days), ticks, [], curves, [])


def durations(days: Sequence[date], series: Sequence[Series]) -> Plot:
    """A line for each series of seconds, on a logarithmic scale."""
    values = [value for one in series for value in one.values if value]
    least, most = min(values, default=1.0), max(values, default=1.0)
    low = max((mark for mark in SECONDS if mark <= least), default=min(SECONDS))
    high = min(mark for mark in SECONDS if mark > max(most, low))

    def height(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return HIGH - BOTTOM - share * (HIGH - TOP - BOTTOM)

    marks = [mark for mark in SECONDS if low <= mark <= high]
    every = math.ceil(len(marks) / (TICKS + 2))
    ticks = [Tick(height(mark), SECONDS[mark]) for mark in marks[::every]]
    curves = [_curve(one, len(days), height) for one in series]
    return Plot("lines", HIGH, list(series), _days(days), ticks, [], curves, [])


def waits(counts: dict[str, int], tone: str) -> Plot:
    """A horizontal bar for each line of a table of counts."""
    most = max([*counts.values(), 1])
    room = WIDE - NAMES - RIGHT - 56
    rows = [
        Row(name, TOP + (number + 0.5) * ROW, [Mark(f"{count:,}", tone, count / most * room)])
        for number, (name, count) in enumerate(counts.items())
    ]
    return Plot("waits", TOP + len(rows) * ROW, [], [], [], [], [], rows)


def intervals(rows: Sequence[tuple[str, Sequence[tuple[Interval | None, str, str]]]], legend: Sequence[Series]) -> Plot:
    """Shares with their intervals: for each row its name and, for each mark, the interval, words and a tone."""
    found = [interval for _, marks in rows for interval, _, _ in marks if interval]
    low = math.floor(min((interval.low for interval in found), default=0.0) * 10) / 10
    low = min(low, 0.9)
    room = WIDE - NAMES - RIGHT - 12

    def place(value: float) -> float:
        return NAMES + (value - low) / (1 - low) * room

    drawn = [
        Row(
            name,
            TOP + (number + 0.5) * ROW,
            [
                Mark(words, tone, place(interval.value), place(interval.low), place(interval.high))
                if interval
                else Mark(words, tone)
                for interval, words, tone in marks
            ],
        )
        for number, (name, marks) in enumerate(rows)
    ]
    step = 0.05 if low >= 0.7 else 0.1 if low >= 0.4 else 0.2
    values = [low + step * n for n in range(round((1 - low) / step) + 1)]
    ticks = [Tick(place(value), f"{value:.0%}") for value in values]
    return Plot("intervals", TOP + len(rows) * ROW + BOTTOM, list(legend), ticks, [], [], [], drawn)


def _curve(one: Series, days: int, height: Callable[[float], float]) -> Curve:
    slot = (WIDE - LEFT - RIGHT) / max(1, days)
    points = [
        None if value is None else (LEFT + (number + 0.5) * slot, height(value))
        for number, value in enumerate(one.values)
    ]
    path, dots = "", []
    for number, point in enumerate(points):
        if point is None:
            continue
        before = points[number - 1] if number else None
        after = points[number + 1] if number + 1 < len(points) else None
        path += f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}"
        if before is None and after is None:
            dots.append(point)
    return Curve(path, dots, one.tone)


def _ticks(most: float) -> tuple[float, list[Tick]]:
    """The top of a scale that begins at zero, and its marks at round numbers."""
    rough = max(most, 1) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = max(1, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough))
    count = max(1, math.ceil(most / step))
    top = step * count
    ticks = [Tick(HIGH - BOTTOM - n / count * (HIGH - TOP - BOTTOM), f"{step * n:,.0f}") for n in range(count + 1)]
    return top, ticks


def _days(days: Sequence[date]) -> list[Tick]:
    slot = (WIDE - LEFT - RIGHT) / max(1, len(days))
    every = max(1, math.ceil(len(days) / DAYS_NAMED))
    return [Tick(LEFT + (n + 0.5) * slot, f"{day:%-d %b}") for n, day in enumerate(days) if n % every == 0]
