"""Geometry of the dashboard's charts, which its templates draw as SVG: no script, no style attribute, no other host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 720, 180
COLOURS = 8
"""Colours of the style sheet, `series-0` to `series-7`; the last one is for all others."""
GAP = 0.2
"""Part of a bar's place that stays empty."""


class Bar(NamedTuple):
    """A rectangle of a chart in its coordinates. `colour` is a number of the style sheet; `title` says what it is.

    `address` is that of what it is the sum of.
    """

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str
    address: str | None = None


class Chart(NamedTuple):
    """A chart of stacked bars: its bars, the series by colour, its labels, and the value at the top.

    A series has its name, its sum, and the address of what it is the sum of.
    """

    bars: list[Bar]
    legend: list[tuple[int, str, float, str | None]]
    labels: list[tuple[float, str]]
    top: float
    is_empty: bool


class Series(NamedTuple):
    """A named line of values, one for each part of the period.

    `addresses` are those of what the values are sums of, and `address` that of all.
    """

    name: str
    values: Sequence[float]
    addresses: Sequence[str | None] = ()
    address: str | None = None


def stacked_bars(series: Sequence[Series], labels: Sequence[str], unit: Any = str) -> Chart:
    """Return a chart with a bar for each label, of the values of all series one above the other.

    `unit` formats a value for the titles.
    """
    series = _folded(series)
    sums = [sum(each.values[at] for each in series) for at in range(len(labels))]
    top = max(sums, default=0.0)
    bars: list[Bar] = []
    place = WIDTH / max(1, len(labels))
    for at, label in enumerate(labels):
        y = float(HEIGHT)
        for colour, each in enumerate(series):
            value = each.values[at]
            if value <= 0 or top <= 0:
                continue
            height = HEIGHT * value / top
            y -= height
            title = f"{label}: {each.name} {unit(value)}"
            left, width = at * place + place * GAP / 2, place * (1 - GAP)
            address = each.addresses[at] if each.addresses else None
            bars.append(Bar(left, y, width, height, _colour(colour, each), title, address))
    legend = [(_colour(colour, each), each.name, sum(each.values), each.address) for colour, each in enumerate(series)]
    return Chart(bars, legend, _some(labels, place), top, top <= 0)


OTHERS = "all others"


def _folded(series: Sequence[Series]) -> list[Series]:
    """Return the series, with those beyond the colours as one."""
    if len(series) <= COLOURS:
        return list(series)
    rest = series[COLOURS - 1 :]
    values = [sum(column) for column in zip(*(each.values for each in rest), strict=True)]
    return [*series[: COLOURS - 1], Series(OTHERS, values)]


def _colour(number: int, series: Series) -> int:
    return COLOURS - 1 if series.name == OTHERS else number


def _some(labels: Sequence[str], place: float) -> list[tuple[float, str]]:
    """Return at most seven of the labels with the middle of their places."""
    step = max(1, -(-len(labels) // 7))
    return [((at + 0.5) * place, labels[at]) for at in range(0, len(labels), step)]
