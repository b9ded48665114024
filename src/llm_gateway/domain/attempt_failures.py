"""Name why an attempt failed in a word, for logs and traces. Its message is not used: providers quote prompts in it."""

from __future__ import annotations

from llm_gateway.domain.usage import UsageRecord


def failure_of(record: UsageRecord, number: int) -> str | None:
    """Return why the attempt with this number failed; None if it did not.

    That is its HTTP status (`503`), or the cause that the next attempt names (`timeout`), or `not_sent`, or the
    request's error code; an empty text if none of them is known.
    """
    attempt = record.attempts[number]
    if attempt.error is None:
        return None
    if attempt.status is not None and attempt.status >= 400:
        return str(attempt.status)
    if number + 1 < len(record.attempts):
        after = record.attempts[number + 1].why
        if after is not None and ":" in after:
            return after.partition(":")[2]
    if not attempt.sent:
        return "not_sent"
    return "" if record.outcome in ("ok", "cached") else record.error_code or ""


def failures_of(record: UsageRecord) -> list[str]:
    """Return `provider/model: why` of each attempt that failed, in their order."""
    for attempt in record.attempts:
        if attempt.error is not None:
            break
    else:  # nearly always
        return []
    return [
        f"{attempt.provider}/{attempt.model}: {failure_of(record, number)}"
        for number, attempt in enumerate(record.attempts)
        if attempt.error is not None
    ]
