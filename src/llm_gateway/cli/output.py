"""Output of commands: tables on a terminal, tab-separated text in pipes and files, JSON with `--json`.

Values can be chosen by customers, so control characters are escaped before they reach a terminal.
"""

from __future__ import annotations

import json as json_text
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

Flag: TypeAlias = Annotated[bool, Parameter(show_default=False)]
Json: TypeAlias = Annotated[Flag, Parameter(help="print JSON, the API's own")]
Row: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["text", "count", "money", "share", "flag", "list"]

NANO_DIGITS = 9
SIGNIFICANT_DIGITS = 4
MONEY_DIGITS = 2
LIST_LENGTH = 3
WHOLE_KINDS = frozenset({"count", "money", "share"})
"""Kinds of columns whose values are not wrapped."""
BETWEEN_COLUMNS = 3
"""Characters between two columns of a table."""

# C0 and C1 controls, line and paragraph separators, bidirectional formatting, surrogates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Column(NamedTuple):
    """A column of a table: the rows' field, its title on a terminal, and its kind or the function that formats it.

    `missing` is shown for null. Columns with `on_terminal` False are printed for programs only.
    """

    field: str
    title: str
    kind: Kind | Callable[[Any], str] = "text"
    missing: str = ""
    on_terminal: bool = True


def is_terminal() -> bool:
    """Return True if standard output is a terminal."""
    return sys.stdout.isatty()


def note(sentence: str) -> None:
    """Print a hint on standard error if that is a terminal."""
    if sys.stderr.isatty():
        print(sentence, file=sys.stderr)


def print_json(value: object) -> None:
    """Print `value` as indented JSON."""
    lines = json_text.dumps(value, indent=2, ensure_ascii=False).split("\n")
    print("\n".join(map(printable, lines)))


def print_rows(rows: Sequence[Row], columns: Sequence[Column], *, total: Row | None = None, empty: str = "") -> None:
    """Print a table. `total` is its last line, and `empty` replaces a table without rows; both on terminals only."""
    if not is_terminal():
        print("\t".join(column.field for column in columns))
        for row in rows:
            print("\t".join(plain(row[column.field]) for column in columns))
    elif not rows:
        print(empty)
    else:
        _draw_rows(rows, [column for column in columns if column.on_terminal], total)


def print_fields(row: Row, columns: Sequence[Column]) -> None:
    """Print one row, a line for each field."""
    if not is_terminal():
        for column in columns:
            print(f"{column.field}\t{plain(row[column.field])}")
        return
    _draw_fields([(column.title, _shown([row[column.field]], column, whole=True)[0]) for column in columns])


def plain(value: Any) -> str:
    """Format a value for programs: not shortened, without tabs and line breaks."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return format(Decimal(str(value)), "f")
    if isinstance(value, list):
        return printable(",".join(map(str, value)))
    return printable(json_text.dumps(value) if isinstance(value, dict) else str(value))


def printable(text: str) -> str:
    """Escape characters of `text` that would move a cursor or end a line or a field."""
    return _CONTROL.sub(_escaped, text)


def dollars(amount: float | Decimal) -> str:
    """Format an amount in USD for people: cents, or up to four significant digits, at most nine decimals."""
    exact = Decimal(str(amount))
    digits = MONEY_DIGITS
    if exact:
        digits = min(NANO_DIGITS, max(MONEY_DIGITS, SIGNIFICANT_DIGITS - 1 - exact.adjusted()))
    rounded = abs(exact).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    whole, _, rest = f"{rounded:,f}".partition(".")
    return f"{'-' if exact < 0 else ''}${whole}.{rest[:MONEY_DIGITS]}{rest[MONEY_DIGITS:].rstrip('0')}"


def _in_line(texts: Sequence[str]) -> list[str]:
    """Pad amounts so that their decimal points align."""
    digits = [len(text.partition(".")[2]) for text in texts]
    padded = [text + " " * (max(digits) - own) if text else "" for text, own in zip(texts, digits, strict=True)]
    width = max(map(len, padded), default=0)
    return [text.rjust(width) for text in padded]


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _draw_rows(rows: Sequence[Row], columns: Sequence[Column], total: Row | None) -> None:
    """Draw a table, or each row as a list of fields if the terminal is too narrow for a table."""
    lines = [*rows, total] if total is not None else list(rows)
    cells = [_shown([line.get(column.field) for line in lines], column) for column in columns]
    widths = _column_widths(columns, cells, _width() - BETWEEN_COLUMNS * (len(columns) - 1))
    if widths is not None:
        _draw(_table(columns, cells, widths, has_total=total is not None))
        return
    for number, line in enumerate(zip(*cells, strict=True)):
        if number:
            print()
        _draw_fields([(column.title, text.strip()) for column, text in zip(columns, line, strict=True)])


def _column_widths(columns: Sequence[Column], cells: Sequence[list[str]], room: int) -> list[int] | None:
    """Return the width of each column so that they fit into `room`, None if that would break a word or a number.

    Rich's own distribution ignores the columns' `min_width` and crops what does not fit.
    """
    texts = [(column.title, *own) for column, own in zip(columns, cells, strict=True)]
    widths = [max(map(_cells, own)) for own in texts]
    least = [
        width if column.kind in WHOLE_KINDS else max(_longest_word(text) for text in own)
        for column, own, width in zip(columns, texts, widths, strict=True)
    ]
    if sum(least) > room:
        return None
    while sum(widths) > room:  # narrow the widest column that can wrap
        _, widest = max((width, number) for number, width in enumerate(widths) if width > least[number])
        widths[widest] -= 1
    return widths


def _longest_word(text: str) -> int:
    return max(map(_cells, text.split()), default=0)


def _draw_fields(fields: Iterable[tuple[str, str]]) -> None:
    from rich.table import Table  # noqa: PLC0415 - 50 ms that only a terminal needs
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in fields:
        table.add_row(title, Text(text))
    _draw(table)


def _table(columns: Sequence[Column], cells: Sequence[list[str]], widths: Sequence[int], *, has_total: bool) -> Table:
    """Build a table whose columns have these widths, without the space between them."""
    from rich import box  # noqa: PLC0415 - 50 ms that only a terminal needs
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(
        box=box.SIMPLE if has_total else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_footer=has_total
    )
    for column, texts, width in zip(columns, cells, widths, strict=True):
        table.add_column(
            column.title.rjust(len(texts[0])) if column.kind == "money" else column.title,
            Text(texts.pop(), "bold") if has_total else "",
            justify="right" if column.kind in ("count", "share") else "left",
            overflow="fold",
            width=width,
            no_wrap=column.kind in WHOLE_KINDS,
        )
    for line in zip(*cells, strict=True):
        table.add_row(*map(Text, line))
    return table


def _cells(text: str) -> int:
    from rich.cells import cell_len  # noqa: PLC0415 - 50 ms that only a terminal needs

    return cell_len(text)


def _width() -> int:
    from rich.console import Console  # noqa: PLC0415 - 50 ms that only a terminal needs

    return Console().width


def _shown(values: Sequence[Any], column: Column, *, whole: bool = False) -> list[str]:
    """Format the cells of a column for people. Long lists are shortened unless `whole`."""
    show = column.kind if callable(column.kind) else _of_kind(column.kind, whole=whole)
    texts = [column.missing if value is None else printable(show(value)) for value in values]
    return _in_line(texts) if column.kind == "money" else texts


def _of_kind(kind: Kind, *, whole: bool) -> Callable[[Any], str]:
    def listed(values: list[str]) -> str:
        more = 0 if whole else len(values) - LIST_LENGTH
        return ", ".join([*values[:LIST_LENGTH], f"{more} more"]) if more > 0 else ", ".join(values)

    shows: dict[Kind, Callable[[Any], str]] = {
        "count": lambda value: f"{value:,.0f}",
        "money": dollars,
        "share": lambda value: f"{value:.1%}",
        "flag": lambda value: "yes" if value else "no",
        "list": listed,
    }
    return shows.get(kind, lambda value: value if isinstance(value, str) else plain(value))


def _draw(table: Table) -> None:
    from rich.console import Console  # noqa: PLC0415 - 50 ms that only a terminal needs

    Console(highlight=False, markup=False, emoji=False).print(table)
