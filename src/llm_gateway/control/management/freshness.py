"""Make reports include all responses sent before they were requested."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from llm_gateway import wall_clock
from llm_gateway.errors import StoreUnavailable

FLUSH_TIMEOUT_S = 5.0
"""Seconds that a report waits for usage records to reach the database."""

UpToDate: TypeAlias = Callable[[], int]
"""Wait until all earlier usage records are in the database; return the time in milliseconds UTC.

Raises:
    StoreUnavailable: they are not within `FLUSH_TIMEOUT_S`.
"""


def up_to_date_by(flush: Callable[[float], bool]) -> UpToDate:
    """Return the function that waits by `flush(timeout in seconds)`, which returns False on a timeout."""

    def up_to_date() -> int:
        if not flush(FLUSH_TIMEOUT_S):
            raise StoreUnavailable("Recent usage records are not in the database yet: try again.", retry_after_s=5)
        return wall_clock.now_ms()

    return up_to_date
