"""Rate-limit headers of providers: the wait after a 429 and the limits, in each vendor's spelling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.providers.rate_limit_headers import reported_limits, wait_after


def headers(text: str) -> list[tuple[bytes, bytes]]:
    """Parse lines such as `name: value`."""
    pairs = (line.strip().partition(": ") for line in text.strip().splitlines())
    return [(name.encode(), value.encode()) for name, _, value in pairs]


def about(seconds: float) -> Any:
    return pytest.approx(seconds)


OPENAI = headers("""
    content-type: application/json
    x-ratelimit-limit-requests: 5000
    X-RateLimit-Limit-Tokens: 160000
    x-ratelimit-limit-tokens_usage_based: 160000
    x-ratelimit-remaining-requests: 4999
    x-ratelimit-remaining-tokens: 159976
    x-ratelimit-remaining-tokens_usage_based: 3
    x-ratelimit-reset-requests: 12ms
    x-ratelimit-reset-tokens: 6m0s
""")
GROQ = headers("""
    x-ratelimit-limit-requests: 14400
    x-ratelimit-limit-tokens: 18000
    x-ratelimit-remaining-requests: 14370
    x-ratelimit-remaining-tokens: 17997
    x-ratelimit-reset-requests: 2m59.56s
    x-ratelimit-reset-tokens: 7.66s
""")
AZURE = headers("""
    x-ratelimit-limit-tokens: -1
    x-ratelimit-remaining-tokens: -1
    x-ratelimit-reset-tokens: 0
""")


def test_openais_limits_are_read() -> None:
    assert reported_limits(OPENAI) == ReportedLimits(
        ReportedLimit(4999, about(0.012), 5000), ReportedLimit(159976, 360.0, 160000)
    )


def test_groqs_limits_are_read() -> None:
    assert reported_limits(GROQ) == ReportedLimits(
        ReportedLimit(14370, about(179.56), 14400), ReportedLimit(17997, 7.66, 18000)
    )


def test_a_vendor_that_does_not_know_its_limits_reports_none() -> None:
    assert reported_limits(AZURE) is None
    assert wait_after(AZURE) is None


def test_anthropics_limits_are_read() -> None:
    later = datetime.now(UTC) + timedelta(seconds=30)
    found = reported_limits(
        headers(f"""
            anthropic-ratelimit-requests-limit: 50
            anthropic-ratelimit-requests-remaining: 49
            anthropic-ratelimit-requests-reset: {later:%Y-%m-%dT%H:%M:%SZ}
            anthropic-ratelimit-tokens-limit: 50000
            anthropic-ratelimit-tokens-remaining: 49000
            anthropic-ratelimit-tokens-reset: {later.isoformat()}
        """)
    )

    assert found is not None
    assert found.requests is not None
    assert found.tokens is not None
    assert (found.requests.remaining, found.requests.limit, found.tokens.remaining, found.tokens.limit) == (
        49, 50, 49000, 50000,
    )  # fmt: skip
    assert found.requests.reset_s == pytest.approx(30, abs=2)
    assert found.tokens.reset_s == pytest.approx(30, abs=2)
    assert not found.tokens.counts_bound, "Anthropic counts output tokens as they are produced"


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1s", 1), ("6m0s", 360), ("1m2s", 62), ("12ms", 0.012), ("1h2m3.5s", 3723.5), ("1d", 86400), ("59", 59),
        ("0.25", 0.25), ("0s", 0), ("-5", 0), ("2020-01-01T00:00:00Z", 0),
    ],
)  # fmt: skip
def test_a_reset_is_a_duration_a_number_or_a_time(reset: str, seconds: float) -> None:
    found = reported_limits(headers(f"x-ratelimit-remaining-tokens: 7\nx-ratelimit-reset-tokens: {reset}"))

    assert found == ReportedLimits(None, ReportedLimit(7, about(seconds)))


@pytest.mark.parametrize(
    "reset", ["", "soon", "1764259200", "1764259200000", "1m2", "s", "9" * 60, "2026-13-01T00:00Z"]
)
def test_a_limit_whose_reset_cannot_be_read_is_ignored(reset: str) -> None:
    given = headers(f"x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: {reset}")

    assert reported_limits(given) is None
    assert wait_after(given) is None


@pytest.mark.parametrize("remaining", ["", "-1", "1.5", "many", "9" * 19])
def test_a_limit_whose_rest_cannot_be_read_is_ignored(remaining: str) -> None:
    given = headers(f"x-ratelimit-remaining-tokens: {remaining}\nx-ratelimit-reset-tokens: 1s")

    assert reported_limits(given) is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("retry-after-ms: 250\nretry-after: 7", 0.25),
        ("retry-after: 7\nRetry-After-MS: 250", 0.25),
        ("retry-after-ms: soon\nretry-after: 7", 7),
        ("retry-after: 7\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 1m2s", 7),
        ("x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 1m2s", 62),
        ("x-ratelimit-remaining-requests: 5\nx-ratelimit-reset-requests: 1m2s", None),
        ("content-type: text/plain", None),
    ],
)
def test_the_wait_is_the_most_exact_one_that_is_given(given: str, seconds: float | None) -> None:
    assert wait_after(headers(given)) == seconds


def test_the_wait_is_the_longest_reset_of_the_limits_that_are_used_up() -> None:
    later = datetime.now(UTC) + timedelta(seconds=40)
    given = headers(f"""
        anthropic-ratelimit-requests-remaining: 0
        anthropic-ratelimit-requests-reset: {datetime.now(UTC).isoformat()}
        anthropic-ratelimit-tokens-remaining: 0
        anthropic-ratelimit-tokens-reset: {later.isoformat()}
    """)

    assert wait_after(given) == pytest.approx(40, abs=2)


@pytest.mark.parametrize(
    "date", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2029 00:00:00 +99999999999999", "soon"]
)
def test_a_retry_after_that_is_no_date_asks_for_no_wait(date: str) -> None:
    assert wait_after(headers(f"retry-after: {date}")) is None
