"""Calls of the last minute, read from the usage records: they count against the rate limits of a worker that starts."""

from __future__ import annotations

import time

from llm_gateway.domain.usage import SentAttempt
from llm_gateway.journal.shipper import Shipper
from llm_gateway.store.usage import LONGEST_REQUEST_MS, UsageStore

WINDOW_MS = 61_000
"""Milliseconds from which calls count: the limiter's window of a minute plus its widest bucket."""
FLUSH_S = 5.0
"""Seconds that the records of a worker that has just ended may take to reach the database."""


def recent_calls(usage: UsageStore, shipper: Shipper, request_timeout_s: float) -> list[SentAttempt]:
    """Return the calls sent in the last minute, those of workers that have ended included.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    shipper.flush(FLUSH_S)
    longest_ms = max(LONGEST_REQUEST_MS, int(request_timeout_s * 1000))
    return usage.recent_attempts(time.time_ns() // 1_000_000 - WINDOW_MS, longest_ms)
