"""Render the results of a benchmark as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.budget import Row
from benchmarks.findings import Books, Findings, Speed

CROWDED = 0.1
"""Share of the measured core used by other processes above which the figures are doubtful."""


def markdown(found: Findings, rows: Sequence[Row], facts: Iterable[str]) -> str:
    """Return the budget table, the scenarios, the accounting, and the facts about the machine."""
    parts = [
        budget_table(rows),
        table(
            ("scenario", "requests/s", "p50 ms", "p99 ms", "of its core", "others", "CPU µs/request"),
            map(_speed_row, found.speeds.values()),
        ),
        books_table(found.books),
        "\n".join(f"- {fact}" for fact in facts),
    ]
    if found.first_start_s is not None:
        parts[-1] += f"\n- a first start, which makes the database, took {found.first_start_s:.2f} s"
    if any(speed.others.high > CROWDED for speed in found.speeds.values()):
        parts.append("**Other programs used much of the measured core: repeat this when the machine is quiet.**")
    if found.failures:
        parts.append("**Failed answers**\n\n" + "\n".join(f"- {failure}" for failure in found.failures))
    return "\n\n".join(parts) + "\n"


def budget_table(rows: Sequence[Row]) -> str:
    """Return a table of limit, target and measured value of each figure."""
    return table(("figure", "must", "aim", "measured", "min to max", "verdict"), map(_budget_row, rows))


def books_table(books: Iterable[Books]) -> str:
    """Return a table that compares requests sent with requests recorded."""
    head = ("accounting", "requests sent", "recorded", "cache hits", "calls at the mock", "adds up")
    return table(head, map(_books_row, books))


def with_section(text: str, title: str, body: str) -> str:
    """Replace the section `title` of a Markdown text by `body`; append it if there is none."""
    sections = [section for section in re.split(r"(?m)^(?=# )", text) if section.strip()]
    new = f"# {title}\n\n{body.strip()}\n"
    titles = [section.partition("\n")[0] for section in sections]
    place = titles.index(f"# {title}") if f"# {title}" in titles else len(sections)
    sections[place : place + 1] = [new]
    return "\n".join(section.strip() + "\n" for section in sections)


def _budget_row(row: Row) -> list[str]:
    must, aim = ("" if limit is None else f"≤ {limit:g} {row.unit}" for limit in (row.must, row.aim))
    if row.measured is None:
        return [row.name, must, aim, "", "", row.verdict]
    value, low, high = (f"{n:,.{row.digits}f}" for n in (row.measured.value, row.measured.low, row.measured.high))
    return [row.name, must, aim, f"{value} {row.unit}", "" if low == high else f"{low} to {high}", row.verdict]


def _speed_row(speed: Speed) -> list[str]:
    return [
        speed.name,
        f"{speed.per_second.value:,.0f}",
        f"{speed.p50_ms.value:.2f}",
        f"{speed.p99_ms.value:.2f}",
        f"{speed.busy.value:.0%}",
        f"{speed.others.value:.0%}",
        f"{speed.cpu_us.value:.1f}",
    ]


def _books_row(books: Books) -> list[str]:
    numbers = (books.sent, books.recorded, books.hits, books.bought)
    return [books.name, *(f"{number:,}" for number in numbers), books.wrong or "OK"]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, padded so that its columns line up as plain text."""
    cells = [list(head), *map(list, lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells)
