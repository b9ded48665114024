"""The buckets of the cube that periods of whole hours consist of. No SQL.

    start                                                        end
      ├─hours─┤────days────┤──────eight days──────┤───days───┤─hours─┤
           midnight     multiple of 8          multiple of 8  midnight (UTC)

At each end shorter buckets are added, or subtracted from the bucket beyond, whichever are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llm_gateway.store.cube import LONG
from llm_gateway.store.rollups import DAY, HOUR, HOUR_MS, Grain

Part = tuple[int, int]
"""(start, end) of a part of a period, milliseconds UTC, the end excluded."""

HOURS_OF_DAY, DAYS_OF_LONG = DAY.hours // HOUR.hours, LONG.hours // DAY.hours


class Bucket(NamedTuple):
    """A bucket, by its number since 1970, of the part of a report with this index: to be added, or subtracted (-1)."""

    grain: Grain
    number: int
    part: int
    sign: int

    @property
    def day(self) -> int:
        """The day since 1970 that it begins with."""
        return self.number * self.grain.hours // DAY.hours


def buckets_of(parts: Sequence[Part], longest: Grain = LONG) -> list[Bucket]:
    """Cover each part, which begins and ends with full hours, with few buckets. One that ends first has none.

    `longest` is the length of the longest buckets: LONG, or DAY.
    """
    return [
        Bucket(grain, number, part, sign)
        for part, (start_ms, end_ms) in enumerate(parts)
        for grain, number, sign in _of_hours(start_ms // HOUR_MS, end_ms // HOUR_MS, longest)
    ]


_Signed = tuple[Grain, int, int]
"""A bucket and its sign."""


def _of_hours(start: int, end: int, longest: Grain) -> Iterator[_Signed]:
    """Cover hours by days, and by the hours next to their midnights."""
    first, last = _nearest(start, HOURS_OF_DAY), _nearest(end, HOURS_OF_DAY)
    if not _is_shorter(start, end, first, last, HOURS_OF_DAY):
        yield from _each(HOUR, start, end)
        return
    yield from _edges(HOUR, start, end, first, last)
    yield from _of_days(first // HOURS_OF_DAY, last // HOURS_OF_DAY, longest)


def _of_days(start: int, end: int, longest: Grain) -> Iterator[_Signed]:
    first, last = _nearest(start, DAYS_OF_LONG), _nearest(end, DAYS_OF_LONG)
    if longest is DAY or not _is_shorter(start, end, first, last, DAYS_OF_LONG):
        yield from _each(DAY, start, end)
        return
    yield from _edges(DAY, start, end, first, last)
    yield from _each(LONG, first // DAYS_OF_LONG, last // DAYS_OF_LONG)


def _is_shorter(start: int, end: int, first: int, last: int, length: int) -> bool:
    """Return whether there are fewer buckets if those from `first` to `last` are joined to ones of this length."""
    return first < last and abs(first - start) + (last - first) // length + abs(end - last) < end - start


def _edges(grain: Grain, start: int, end: int, first: int, last: int) -> Iterator[_Signed]:
    """Cover what lies between the ends and the joined buckets: outside it is added, within it is subtracted."""
    yield from _each(grain, start, first)
    yield from _each(grain, first, start, -1)
    yield from _each(grain, last, end)
    yield from _each(grain, end, last, -1)


def _each(grain: Grain, start: int, end: int, sign: int = 1) -> Iterator[_Signed]:
    return ((grain, number, sign) for number in range(start, end))


def _nearest(number: int, length: int) -> int:
    """Return the multiple of a length that is nearest to a number, the later one of two."""
    return (number + length // 2) // length * length
