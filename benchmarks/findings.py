"""What a run found out, as data: the scenarios fill it, `budget` and `report` read it."""

from __future__ import annotations

from statistics import median

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """The median of some windows, and how far they lay apart."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        return cls(median(values), min(values), max(values))

    def over(self, other: Figure) -> Figure:
        """The ratio to another figure, medians and extremes."""
        return Figure(self.value / other.value, self.low / other.high, self.high / other.low)


class Window(msgspec.Struct, frozen=True):
    """One spell of load on a target."""

    cpu_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    busy: float
    """The part of its core that the target used."""
    others: float
    """The part of that core that everything else used: if it is not small, the figures are not good."""
    late: float
    """Seconds until everything was in the database."""


class Speed(msgspec.Struct, frozen=True):
    """What one scenario showed: the fields of `Window` over its windows."""

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
    """Whether the accounting adds up. `slack` is how many requests were sent without reading their answer, at most."""

    name: str
    sent: int
    slack: int
    recorded: int
    hits_expected: int
    hits: int
    bought: int
    """Calls that the mock has seen."""

    def plus(self, more: Books) -> Books:
        """Add the books of some more load on the same target."""
        mine, theirs = (msgspec.structs.astuple(books)[1:] for books in (self, more))
        return Books(self.name, *(a + b for a, b in zip(mine, theirs, strict=True)))

    @property
    def wrong(self) -> str:
        """What does not add up; empty if all does."""
        differences = {
            "records": self.recorded - self.sent,
            "cache hits": self.hits - self.hits_expected,
            "calls at the mock": self.bought - (self.sent - self.hits_expected),
        }
        off = {what: by for what, by in differences.items() if not 0 <= by <= self.slack}
        return ", ".join(f"{by:+,} {what}" for what, by in off.items())


class Findings(msgspec.Struct):
    """All that was measured; None where it was not."""

    speeds: dict[str, Speed] = {}
    books: list[Books] = []
    failures: list[str] = []
    added_ms: Figure | None = None
    idle_mb: float | None = None
    loaded_mb: float | None = None
    start_s: Figure | None = None
    first_start_s: float | None = None
