"""Formats of the dashboard's pages for money, counts, durations and moments: filters of the templates."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from llm_gateway import wall_clock

DASH = "–"


def usd(value: float | None) -> str:
    """Format dollars: cents, and four digits more for small amounts that are not zero."""
    if value is None:
        return DASH
    if value == 0:
        return "$0"
    if abs(value) < 0.01:
        return f"${value:.6f}".rstrip("0") if abs(value) >= 0.000001 else "< $0.000001"
    return f"${value:,.4f}" if abs(value) < 1 else f"${value:,.2f}"


def count(value: float | None) -> str:
    """Format a number with separators, in thousands or millions if it is long."""
    if value is None:
        return DASH
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):,.1f}{suffix}"
    return f"{value:,.0f}"


def exact(value: float | None) -> str:
    """Format a number with separators and all its digits."""
    return DASH if value is None else f"{value:,.0f}"


def amount(value: float | None, unit: str) -> str:
    """Format an amount of a budget in its unit: dollars, tokens or requests."""
    return usd(value) if unit == "usd" or value is None else f"{count(value)} {unit}"


def byte_count(value: float | None) -> str:
    """Format bytes in a unit of at most four digits, as disks are sold: 1 kB is 1,000 bytes."""
    if value is None:
        return DASH
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} B"


def ms(value: float | None) -> str:
    """Format milliseconds, as seconds from one second on."""
    if value is None:
        return DASH
    return f"{value:,.0f} ms" if value < 1000 else f"{value / 1000:,.2f} s"


def percent(part: float | None, whole: float | None = 1.0) -> str:
    """Format a part of a whole in percent; a dash if the whole is zero."""
    if part is None or not whole:
        return DASH
    share = 100 * part / whole
    return f"{share:.0f} %" if share == 0 or share >= 10 else f"{share:.1f} %"


def change(value: float | None) -> str:
    """Format a relative change with its sign; a dash if there was nothing before."""
    return DASH if value is None else f"{100 * value:+,.0f} %"


def plain(value: float) -> str:
    """Return a number with all its digits and no more, as the API takes it as a text."""
    text = format(value, ".9f") if value < 1e-4 else repr(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def when(value: str | None, timezone: str = "UTC") -> str:
    """Format a moment of the API on the clock of a time zone, to the second."""
    return DASH if not value else _local(value, timezone).strftime("%d %b %Y, %H:%M:%S")


def recently(value: str | None, timezone: str = "UTC") -> str:
    """Format a moment without its year, unless it is in another year than now."""
    if not value:
        return DASH
    moment = _local(value, timezone)
    this_year = wall_clock.now(ZoneInfo(timezone)).year
    return moment.strftime("%d %b, %H:%M:%S" if moment.year == this_year else "%d %b %Y, %H:%M:%S")


def clock_time(value: str | None, timezone: str = "UTC") -> str:
    """Format the time of day of a moment, to the second."""
    return DASH if not value else _local(value, timezone).strftime("%H:%M:%S")


def minute(value: str, timezone: str = "UTC") -> str:
    """Format the time of day of a moment, to the minute."""
    return _local(value, timezone).strftime("%H:%M")


def day(value: str, timezone: str = "UTC") -> str:
    """Format the day of a moment."""
    return _local(value, timezone).strftime("%d %b")


def date(value: str) -> str:
    """Format the day of a moment that is one day for everybody, such as a price list's, with its year."""
    return _local(value, "UTC").strftime("%d %b %Y")


def local_input(value: str | None, timezone: str = "UTC") -> str:
    """Format a moment as a browser's field for date and time takes it; an empty text for no moment."""
    return "" if not value else _local(value, timezone).strftime("%Y-%m-%dT%H:%M")


def _local(value: str, timezone: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(ZoneInfo(timezone))


FILTERS: dict[str, Any] = {
    "usd": usd,
    "count": count,
    "amount": amount,
    "exact": exact,
    "bytes": byte_count,
    "ms": ms,
    "percent": percent,
    "change": change,
    "when": when,
    "recently": recently,
    "clock_time": clock_time,
    "minute": minute,
    "day": day,
    "date": date,
    "local_input": local_input,
}
