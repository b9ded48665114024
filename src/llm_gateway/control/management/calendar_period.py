"""Calendar of the usage reports: periods and their parts (hours, days, months) in a time zone.

A day is from one local midnight to the next, so it has 23 or 25 hours when the clocks change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llm_gateway.errors import Invalid

Bucket: TypeAlias = Literal["hour", "day", "month"]

FIRST_YEAR, LAST_YEAR = 1970, 2200
MOST_BUCKETS = 1000
"""Maximum number of parts of a period."""

DEFAULT_DAYS = 30
HOUR_MS = 3_600_000

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?([Zz]|[+-]\d{2}:\d{2})?")


class Period(NamedTuple):
    """A period: milliseconds UTC, the end excluded, and the zone in which its dates are meant."""

    start_ms: int
    end_ms: int
    zone: ZoneInfo

    def previous(self) -> Period:
        """Return the period before: as many months, if this one has whole months, else as many days, else as long."""
        start, end = self.local(self.start_ms), self.local(self.end_ms)
        if start.time() != end.time():
            return Period(2 * self.start_ms - self.end_ms, self.start_ms, self.zone)
        if start.time() == time() and start.day == end.day == 1:
            month = start.year * 12 + start.month - 1 - ((end.year - start.year) * 12 + end.month - start.month)
            before = start.replace(year=month // 12, month=month % 12 + 1)
        else:
            before = start - (end.date() - start.date())
        return Period(_ms(before, self.zone), self.start_ms, self.zone)

    def local(self, at_ms: int) -> datetime:
        """Return a moment on the zone's clock, without its offset."""
        return datetime.fromtimestamp(at_ms / 1000, self.zone).replace(tzinfo=None)

    def shown(self, at_ms: int) -> str:
        """Format a moment as ISO 8601 with the zone's offset."""
        return datetime.fromtimestamp(at_ms / 1000, self.zone).isoformat(timespec="seconds")

    def buckets(self, bucket: Bucket) -> list[tuple[int, int]]:
        """Return (start, end) of each hour, day or month; the first and the last may be cut.

        Raises:
            Invalid: there are more than `MOST_BUCKETS`.
        """
        found = []
        for start_ms, end_ms in self._buckets(bucket):
            found.append((start_ms, end_ms))
            if len(found) > MOST_BUCKETS:
                raise Invalid(
                    f"The period has more than {MOST_BUCKETS} parts of one {bucket}: choose a later from, an earlier "
                    "to, or a longer bucket (hour, day, month).",
                    loc=("query", "bucket"),
                )
        return found

    def _buckets(self, bucket: Bucket) -> Iterator[tuple[int, int]]:
        at_ms = self.start_ms
        while at_ms < self.end_ms:
            next_ms = min(self._next(at_ms, bucket), self.end_ms)
            yield at_ms, next_ms
            at_ms = next_ms

    def _next(self, at_ms: int, bucket: Bucket) -> int:
        if bucket == "hour":  # counted on the clock of the day's seconds: a local hour exists twice once a year
            local = self.local(at_ms)
            return at_ms + HOUR_MS - (local.minute * 60_000 + local.second * 1000 + local.microsecond // 1000)
        today = self.local(at_ms).date()
        if bucket == "day":
            return _ms(datetime.combine(today + timedelta(days=1), time()), self.zone)
        after = date(today.year + today.month // 12, today.month % 12 + 1, 1)
        return _ms(datetime.combine(after, time()), self.zone)


def read_zone(name: str) -> ZoneInfo:
    """Return the time zone of this name.

    Raises:
        Invalid: the IANA database has no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(
            "tz is not a time zone: use a name of the IANA database, such as UTC, Europe/Berlin or America/New_York.",
            loc=("query", "tz"),
        ) from None


def read_period(start: str | None, end: str | None, tz: str, now_ms: int, *, days: int = DEFAULT_DAYS) -> Period:
    """Return the period from `start` to before `end`: by default the last `days`, with today.

    Raises:
        Invalid: a date or the zone is not valid, or the period is empty.
    """
    zone = read_zone(tz)
    tomorrow = datetime.fromtimestamp(now_ms / 1000, zone).date() + timedelta(days=1)
    end_ms = _ms(datetime.combine(tomorrow, time()), zone) if end is None else read_moment(end, zone, "to")
    if start is None:
        last = datetime.fromtimestamp(end_ms / 1000, zone).replace(tzinfo=None)
        start_ms = _ms(last - timedelta(days=days), zone)
    else:
        start_ms = read_moment(start, zone, "from")
    if start_ms >= end_ms:
        raise Invalid(
            "from must be before to: to is the end of the period and no part of it, so June is "
            "from=2026-06-01&to=2026-07-01.",
            loc=("query", "from"),
        )
    return Period(start_ms, end_ms, zone)


def read_moment(text: str, zone: ZoneInfo, name: str) -> int:
    """Return a date (its midnight) or a date with a time in milliseconds UTC; without an offset they are in `zone`.

    Raises:
        Invalid: the text is neither; `name` is the parameter.
    """
    wrong = Invalid(
        f"{name} must be a date such as 2026-06-01, or a date and time such as 2026-06-01T12:00:00Z "
        f"(a + in a URL is %2B), between {FIRST_YEAR} and {LAST_YEAR}.",
        loc=("query", name),
    )
    if not (_DATE.fullmatch(text) or _MOMENT.fullmatch(text)) or not text.isascii():
        raise wrong
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise wrong from None
    if not FIRST_YEAR < found.year < LAST_YEAR:
        raise wrong
    return _ms(found, zone) if found.tzinfo is None else int(found.timestamp() * 1000)


def _ms(local: datetime, zone: ZoneInfo) -> int:
    """Return a moment of the zone's clock in milliseconds UTC; of a moment that exists twice, the first."""
    return round(local.replace(tzinfo=zone).astimezone(UTC).timestamp() * 1000)
