"""The period of a page: what its address says, as the parameters of the API's reports."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from llm_gateway import wall_clock
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page

CHOICES = (
    ("today", "Today"),
    ("7d", "7 days"),
    ("30d", "30 days"),
    ("month", "This month"),
    ("last-month", "Last month"),
    ("custom", "Custom"),
)


OF_CUSTOMERS = frozenset({"today", "7d", "custom"})
"""Choices of who sees one customer: reports of a customer by another dimension have at most 7 days."""


WEEK = 7
"""Days of the longest report that is summed from single records."""
MONTHS = 12
"""Months to choose from, this one included."""
ENDS = ("from", "to")
"""Parameters of a page's address with the ends of a custom period."""
LONGEST = 20
"""Characters of a period that does not exist, as the message about it shows it."""
_MONTH = re.compile(r"\d{4}-\d{2}")


class Period(NamedTuple):
    """A period: its first day or moment, its end, which is no part of it, and the choice that led to it."""

    choice: str
    start: str
    end: str
    timezone: str

    @property
    def query(self) -> dict[str, str | int | None]:
        """The parameters of a report."""
        return {"from": self.start, "to": self.end, "tz": self.timezone}

    @property
    def kept(self) -> dict[str, str]:
        """The parameters of a page's address that lead to this period again."""
        if self.choice == "custom":
            return {"period": "custom", "from": self.start, "to": self.end}
        return {"period": self.choice}

    @property
    def days(self) -> int:
        """How many days it has; 0 if its ends are not dates."""
        try:
            return (date.fromisoformat(self.end) - date.fromisoformat(self.start)).days
        except ValueError:
            return 0

    @property
    def last_week(self) -> Period:
        """The last seven days of it. Its end must be a date."""
        start = date.fromisoformat(self.end) - timedelta(days=WEEK)
        return Period("custom", start.isoformat(), self.end, self.timezone)

    @property
    def dates(self) -> tuple[str, str]:
        """The first day and the day after the last one, as fields for dates take them; empty for what is neither."""
        return _date_of(self.start, self.timezone), _date_of(self.end, self.timezone, is_end=True)

    @property
    def bucket(self) -> str:
        """The part of the period that a bar of its charts shows."""
        return "hour" if 0 < self.days <= 2 else "day" if self.days <= 92 else "month"


def has_period(page: Page) -> bool:
    """Return whether a page's address has a period."""
    return any(page.given(name) for name in ("period", *ENDS))


def period_of(page: Page, default: str = "30d") -> Period:
    """Return the period in a page's address. Dates that are not valid are left to the API, which says what is wrong.

    Raises:
        ApiError: the address has a period that does not exist, or a date beside one that is not custom.
    """
    today = wall_clock.now(ZoneInfo(page.timezone)).date()
    ends = [name for name in ENDS if page.given(name)]
    choice = page.given("period") or ("custom" if ends else "7d" if page.is_of_customer else default)
    if choice != "custom" and ends:
        raise ApiError(
            422, "Invalid request", f"{ends[0]} goes with period=custom only, not with {choice[:LONGEST]!r}."
        )
    if choice == "custom":
        start = page.given("from") or (today - timedelta(days=29)).isoformat()
        end = page.given("to") or (today + timedelta(days=1)).isoformat()
        return Period("custom", start, end, page.timezone)
    days = _days(choice, today)
    if days is None:
        raise ApiError(422, "Invalid request", f"{choice[:LONGEST]!r} is not a period: {_allowed(page, today)}.")
    first, after = days
    return Period(choice, first.isoformat(), after.isoformat(), page.timezone)


def months_of(page: Page) -> list[tuple[str, str]]:
    """Return the last months to choose from, the newest first, with their names; none to who sees one customer."""
    if page.is_of_customer:
        return []
    months = [wall_clock.now(ZoneInfo(page.timezone)).date().replace(day=1)]
    while len(months) < MONTHS:
        months.append(_month_before(months[-1]))
    return [(f"{month:%Y-%m}", f"{month:%B %Y}") for month in months]


def choices_of(page: Page) -> list[tuple[str, str]]:
    """Return the periods to choose from, with their names."""
    return [each for each in CHOICES if not page.is_of_customer or each[0] in OF_CUSTOMERS]


def _days(choice: str, today: date) -> tuple[date, date] | None:
    """Return the first day of a choice and the day after its last one, None if there is no such choice."""
    tomorrow, month = today + timedelta(days=1), today.replace(day=1)
    if choice == "today":
        return today, tomorrow
    if choice == "7d":
        return today - timedelta(days=6), tomorrow
    if choice == "month":
        return month, tomorrow
    if choice == "last-month":
        return _month_before(month), month
    if choice == "30d":
        return today - timedelta(days=29), tomorrow
    if _MONTH.fullmatch(choice):
        with suppress(ValueError, OverflowError):  # no month of the calendar
            chosen = date.fromisoformat(f"{choice}-01")
            return chosen, (chosen + timedelta(days=31)).replace(day=1)
    return None


def _allowed(page: Page, today: date) -> str:
    named = ", ".join(name for name, _ in choices_of(page) if name != "custom")
    month = "" if page.is_of_customer else f", a month such as {today:%Y-%m},"
    return f"use {named}{month} or custom with from and to"


def _month_before(month: date) -> date:
    return (month - timedelta(days=1)).replace(day=1)


def _date_of(text: str, timezone: str, *, is_end: bool = False) -> str:
    """Return the day of a date or a moment on the clock of a time zone; of an end within a day, the day after."""
    zone = ZoneInfo(timezone)
    try:
        moment = datetime.fromisoformat(text)
        local = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment.astimezone(zone)
        day = local.date() + timedelta(days=1 if is_end and local.time() != time() else 0)
    except (ValueError, OverflowError):
        return ""
    return day.isoformat()
