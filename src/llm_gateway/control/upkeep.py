"""What is done now and then, off the line: tidying up old usage, and prices that change with the time of day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_gateway.control.live import Live
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.retention import Retention

TIDY_EVERY_S, TIDY_PAUSE_S = 3600.0, 0.1
REFRESH_EVERY_S = 300.0


async def tidy_for_ever(retention: Retention, log: Callable[..., None]) -> None:
    """Every hour delete usage records that are past their time and add up days that are over, in small steps."""
    while True:
        try:
            is_left = await asyncio.to_thread(retention.step)
        except StoreUnavailable:
            log("old usage records stay for now: the database does not answer", level="warning")
            is_left = False
        except Exception as error:  # edge: whatever it is, it is tried again, and said
            log("old usage records cannot be tidied up", level="error", exc_info=error)
            is_left = False
        await asyncio.sleep(TIDY_PAUSE_S if is_left else TIDY_EVERY_S)


async def refresh_for_ever(live: Live, log: Callable[..., None]) -> None:
    """Build the snapshot anew every five minutes, for prices that change with the time of day."""
    while True:
        await asyncio.sleep(REFRESH_EVERY_S)
        try:
            await asyncio.to_thread(live.reload)
        except StoreUnavailable:
            log("prices are not refreshed: the database does not answer", level="warning")
        except Exception as error:  # edge: whatever it is, it is tried again, and said
            log("prices cannot be refreshed", level="error", exc_info=error)
