"""Wait for a condition that another task, thread or process fulfils."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait in the event loop until the condition holds.

    Raises:
        TimeoutError: the condition does not hold within `timeout_s`.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.002)


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until the condition holds, without an event loop.

    Raises:
        AssertionError: the condition does not hold within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
