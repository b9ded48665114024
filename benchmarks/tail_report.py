"""Results of the tail-latency benchmark, and their rendering as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.budget import Row
from benchmarks.findings import Books, Figure
from benchmarks.report import CROWDED, books_table, budget_table, table

LATE_MS = 1.0
"""Delay of the load generator, in milliseconds at the 99th percentile, above which the figures are doubtful."""
P99_BUDGET = (2.5, 1.3)
BUSY_BUDGET = (2.0, 1.0)
"""Limit and target of the ratio to smg."""
FLOOR = "mock without a proxy"
"""Name of the target that shows the latency of load generator and mock themselves."""
FIELDS = {"p50_ms": 2, "p90_ms": 2, "p99_ms": 2, "p999_ms": 2, "max_ms": 1, "cpu_us": 0, "lag_ms": 2, "connections": 0}
"""Columns of the table, and their number of decimals."""


class Condition(msgspec.Struct, frozen=True):
    """Load of a window: arrival rate, and whether a busy process shares the core."""

    rate: int
    busy: bool = False
    """True if a busy process runs on the measured core meanwhile."""

    def __str__(self) -> str:
        """Return its name in the tables."""
        return f"{self.rate:,}/s" + (" beside a busy process" if self.busy else "")


class Spell(msgspec.Struct, frozen=True):
    """Measurements of one window of load on one target."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    cpu_us: float
    lag_ms: float
    """Delay of the generator in sending, 99th percentile."""
    connections: int
    others: float
    """Share of the measured core that other processes used."""


class TailFindings:
    """Results of all windows, in the order of the table, and the accounting of the gateways."""

    def __init__(self) -> None:
        self.spells: dict[Condition, dict[str, list[Spell]]] = {}
        self.books: dict[str, Books] = {}
        self.failures: list[str] = []

    def add(self, condition: Condition, target: str, spell: Spell) -> None:
        self.spells.setdefault(condition, {}).setdefault(target, []).append(spell)

    def account(self, books: Books) -> None:
        """Add the accounting of one more window to that of the target."""
        kept = self.books.get(books.name)
        self.books[books.name] = books if kept is None else kept.plus(books)

    @property
    def wrong(self) -> list[str]:
        """Failures of the run: failed answers, and accounting that does not add up."""
        return self.failures + [books.wrong for books in self.books.values() if books.wrong]

    def ratio(self, condition: Condition, field: str, targets: tuple[str, str]) -> Figure | None:
        """Compare two targets round by round, so that changes in the machine's load meet both."""
        mine, theirs = (self.spells[condition].get(target) for target in targets)
        if mine is None or theirs is None:
            return None
        pairs = [(getattr(a, field), getattr(b, field)) for a, b in zip(mine, theirs, strict=True)]
        ratios = [a / b for a, b in pairs if b]
        return Figure.of(ratios) if ratios else None


def tail_text(found: TailFindings, this: str, facts: Sequence[str]) -> str:
    """Return the ratios, the latencies, the accounting, and the facts about the machine."""
    latencies = ("p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
    head = ("load", "target", *latencies, "CPU µs/request", "generator late p99 ms", "connections")
    parts = [
        budget_table(list(_rows(found, this))),
        table(head, _lines(found)),
        books_table(found.books.values()),
        "\n".join(f"- {fact}" for fact in facts),
        *_warnings(found),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(found: TailFindings, this: str) -> Iterator[Row]:
    """Yield the ratios of this tree to every other target; only those to smg have a budget."""
    for condition, spells in found.spells.items():
        name, field, limits = ("p50", "p50_ms", BUSY_BUDGET) if condition.busy else ("p99", "p99_ms", P99_BUDGET)
        for other in spells:
            if other not in (this, FLOOR):
                must, aim = limits if other == "smg" else (None, None)
                measured = found.ratio(condition, field, (this, other))
                yield Row(f"{name} at {condition}, to {other}", "×", must, aim, measured, 2)
    busiest = max((condition for condition in found.spells if not condition.busy), key=lambda c: c.rate)
    for other in found.spells[busiest]:
        if other not in (this, FLOOR):
            measured = found.ratio(busiest, "cpu_us", (this, other))
            yield Row(f"CPU a request at {busiest}, to {other}", "×", None, None, measured, 2)


def _lines(found: TailFindings) -> Iterator[list[str]]:
    for condition, targets in found.spells.items():
        for target, spells in targets.items():
            cells = [_cell(spells, field, digits) for field, digits in FIELDS.items()]
            if target == FLOOR:
                cells[list(FIELDS).index("cpu_us")] = ""
            yield [str(condition), target, *cells]


def _cell(spells: Sequence[Spell], field: str, digits: int) -> str:
    figure = Figure.of([getattr(spell, field) for spell in spells])
    value, low, high = (f"{n:,.{digits}f}" for n in (figure.value, figure.low, figure.high))
    return value if len(spells) == 1 else f"{value} ({low} to {high})"


def _warnings(found: TailFindings) -> Iterator[str]:
    """Yield warnings about what makes the figures doubtful."""
    windows = [
        (condition, spell)
        for condition, targets in found.spells.items()
        for spells in targets.values()
        for spell in spells
    ]
    late = sum(spell.lag_ms > LATE_MS for _, spell in windows)
    if late:
        yield (
            f"**The load generator was more than {LATE_MS:g} ms late for 1 % of its requests in {late} of "
            f"{len(windows)} windows: their figures are partly its own. Repeat this when the machine is quiet.**"
        )
    if any(spell.others > CROWDED for condition, spell in windows if not condition.busy):
        yield "**Other programs used much of the measured core: repeat this when the machine is quiet.**"
    if found.failures:
        yield "**Failed answers**\n\n" + "\n".join(f"- {failure}" for failure in found.failures)
