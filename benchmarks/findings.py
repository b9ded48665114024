"""Data classes for the results of the main benchmark: `scenarios` fills them, `budget` and `report` read them."""

from __future__ import annotations

from statistics import median

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """Median, minimum and maximum of a figure over several windows."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        return cls(median(values), min(values), max(values))

    def over(self, other: Figure) -> Figure:
        """Return the ratio to another figure: of the medians, and its smallest and largest possible value."""
        return Figure(self.value / other.value, self.low / other.high, self.high / other.low)


class Window(msgspec.Struct, frozen=True):
    """Measurements of one window of load on a target."""

    cpu_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    busy: float
    """Share of its core that the target used, 0…1."""
    others: float
    """Share of that core that other processes used; if it is not small, the figures are doubtful."""
    late: float
    """Seconds after the load until everything was in the database."""


class Speed(msgspec.Struct, frozen=True):
    """Result of one scenario: each field of `Window` over all its windows."""

    name: str
    cpu_us: Figure
    per_second: Figure
    p50_ms: Figure
    p99_ms: Figure
    busy: Figure
    others: Figure
    late: Figure

    @classmethod
    def of(cls, name: str, windows: list[Window]) -> Speed:
        return cls(name, *map(Figure.of, map(list, zip(*map(msgspec.structs.astuple, windows), strict=True))))


class Books(msgspec.Struct, frozen=True):
    """Comparison of requests sent with requests recorded. `slack`: maximum of requests sent without reading the answer.

    A generator that leaves at its deadline does not know whether the target took its last requests.
    """

    name: str
    sent: int
    slack: int
    recorded: int
    hits_expected: int
    hits: int
    bought: int
    """Calls that the mock vendor has seen."""

    def plus(self, more: Books) -> Books:
        """Return the sum with the accounting of more load on the same target."""
        mine, theirs = (msgspec.structs.astuple(books)[1:] for books in (self, more))
        return Books(self.name, *(a + b for a, b in zip(mine, theirs, strict=True)))

    @property
    def wrong(self) -> str:
        """Description of what does not add up; empty if everything does."""
        differences = {
            "records": self.recorded - self.sent,
            "cache hits": self.hits - self.hits_expected,
            "calls at the mock": self.bought - (self.sent - self.hits_expected),
        }
        off = {what: by for what, by in differences.items() if not 0 <= by <= self.slack}
        return ", ".join(f"{by:+,} {what}" for what, by in off.items())


class Findings(msgspec.Struct):
    """Results of a run; None where something was not measured."""

    speeds: dict[str, Speed] = {}
    books: list[Books] = []
    failures: list[str] = []
    added_ms: Figure | None = None
    idle_mb: float | None = None
    loaded_mb: float | None = None
    start_s: Figure | None = None
    first_start_s: float | None = None
