"""Rate-limit headers of providers' responses: how long to wait after a 429, and what is left of their limits.

Sources, read 2026-11-27:

    retry-after-ms            milliseconds, preferred to Retry-After by OpenAI's SDK
                              https://github.com/openai/openai-python/blob/main/src/openai/_base_client.py
    retry-after               seconds or a date; RFC 9110, section 10.2.3
    x-ratelimit-limit-, -remaining-, -reset- with requests or tokens; reset is a duration such as 1s, 6m0s, 12ms
                              https://platform.openai.com/docs/guides/rate-limits (as mirrored at
                              https://spybara.com/openai/api/history/docs/en/2026-06-24-2202..2026-06-26-1757/)
                              https://console.groq.com/docs/rate-limits (2m59.56s; requests are those of a day)
                              https://learn.microsoft.com/en-us/answers/questions/5625878 (Azure: reset is a number of
                              seconds; -1 where a value is not known)
    anthropic-ratelimit-requests-, -tokens- with limit, remaining or reset; reset is an RFC 3339 time
                              https://docs.rs/adk-rust/latest/adk_rust/model/anthropic/struct.RateLimitInfo.html and
                              https://github.com/anthropics/anthropic-sdk-typescript/issues/357

Gemini sends none of them; its RetryInfo stands in the body (`gemini.py`).
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits

Headers = Iterable[tuple[bytes, bytes]]

SHORTEST_NAME = len(b"x-ratelimit-reset-tokens")
PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
LONGEST_RESET_S = 7 * 86_400.0
"""A reset in more seconds than this is no duration, but a time in an unknown unit; the limit is ignored."""
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)


def reported_limits(headers: Headers) -> ReportedLimits | None:
    """Return the limits that a response reports; None if it reports none."""
    found: dict[bytes, bytes] | None = None
    for name, value in headers:
        # Most responses have no such header, and hardly any other header has so long a name.
        if len(name) >= SHORTEST_NAME and (lower := name.lower()).startswith(PREFIXES):
            if found is None:
                found = {}
            found[lower] = value
    if found is None:
        return None
    requests = _limit(found, b"requests")
    tokens = _limit(found, b"tokens")
    return None if requests is None and tokens is None else ReportedLimits(requests, tokens)


def wait_after(headers: Headers) -> float | None:
    """Return the seconds that a response with an error status asks to wait; None if it asks for none.

    In this order: retry-after-ms, Retry-After, the reset of a limit of which nothing is left.
    """
    named = {name.lower(): value.decode("latin-1") for name, value in headers if name[:1] in b"rR"}
    milliseconds = _number(named.get(b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    wait_s = _retry_after(named.get(b"retry-after"))
    if wait_s is not None:
        return wait_s
    limits = reported_limits(headers)
    if limits is None:
        return None
    resets = [limit.reset_s for limit in (limits.requests, limits.tokens) if limit is not None and limit.remaining <= 0]
    return max(resets, default=None)


def _retry_after(value: str | None) -> float | None:
    """Read a Retry-After header, a number of seconds or a date."""
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        when = parsedate_to_datetime(value)  # without a time zone if the date has none, or -0000
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time())
    return None


def _number(value: str | None) -> float | None:
    """Return a finite number, negative ones as 0; None for other text."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        number = float(value)
        return max(0.0, number) if math.isfinite(number) else None
    return None


def _limit(found: dict[bytes, bytes], what: bytes) -> ReportedLimit | None:
    remaining = _count(found.get(b"x-ratelimit-remaining-" + what))
    if remaining is not None:
        reset_s = _reset_s(found.get(b"x-ratelimit-reset-" + what))
        limit, counts_bound = _count(found.get(b"x-ratelimit-limit-" + what)), True
    else:
        remaining = _count(found.get(b"anthropic-ratelimit-%b-remaining" % what))
        reset_s = _reset_s(found.get(b"anthropic-ratelimit-%b-reset" % what))
        limit, counts_bound = _count(found.get(b"anthropic-ratelimit-%b-limit" % what)), False
    if remaining is None or reset_s is None:
        return None
    return ReportedLimit(remaining, reset_s, limit or None, counts_bound)


def _count(value: bytes | None) -> int | None:
    """Return a count of 0 or more; None for anything else, such as the -1 of a vendor that does not know."""
    return int(value) if value is not None and len(value) <= 18 and value.isdigit() else None


def _reset_s(value: bytes | None) -> float | None:
    """Return the seconds until a reset that is given as a number, a duration (1m2.5s) or a time (RFC 3339)."""
    if not value or len(value) > 40:
        return None
    text = value.decode("latin-1").strip()
    match = _DURATION.fullmatch(text)
    if match is not None and text:
        seconds: float | None = sum(
            float(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part
        )
    else:
        seconds = _number(text)
    if seconds is None:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            return None
        seconds = max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time())
    return seconds if seconds <= LONGEST_RESET_S else None
