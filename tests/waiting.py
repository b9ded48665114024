"""Wait for what happens in another task, thread, process or at the other end of a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Return when the condition holds.

    Raises:
        TimeoutError: it did not within `timeout_s`.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.002)


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Return when the condition holds, without an event loop.

    Raises:
        AssertionError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
