from __future__ import annotations

import asyncio

import pytest

from llm_gateway.errors import JournalUnavailable
from llm_gateway.journal.durability_waiters import DurabilityWaiters

PATIENCE_S = 0.05


async def test_each_waiter_is_released_once_its_entries_are_durable() -> None:
    waiters = DurabilityWaiters(PATIENCE_S)
    assert not waiters
    first, second, third = waiters.wait(1), waiters.wait(2), waiters.wait(2)
    second.cancel()

    waiters.release(0)
    assert not first.done()
    waiters.release(1)
    assert (first.done(), third.done(), bool(waiters)) == (True, False, True)
    waiters.release(2)

    assert third.result() is None
    assert not waiters
    waiters.close()


async def test_every_waiter_fails_at_its_deadline() -> None:
    """Waiters share one timer while any waits; after the last one a new timer is set."""
    waiters = DurabilityWaiters(PATIENCE_S)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        began = loop.time()
        first, gone = waiters.wait(1), waiters.wait(1)
        gone.cancel()
        await asyncio.sleep(PATIENCE_S / 2)
        later = waiters.wait(1)
        for future in (first, later):
            with pytest.raises(JournalUnavailable, match="could not be made durable") as error:
                await asyncio.wait_for(future, 5)
            assert error.value.retry_after_s == 5
        assert loop.time() - began >= PATIENCE_S * 1.4
        assert not waiters


async def test_a_released_waiter_does_not_fail_at_its_deadline() -> None:
    waiters = DurabilityWaiters(PATIENCE_S)
    first = waiters.wait(1)
    waiters.release(1)
    await asyncio.sleep(2 * PATIENCE_S)

    assert first.result() is None


async def test_no_waiter_fails_after_closing() -> None:
    waiters = DurabilityWaiters(PATIENCE_S)
    first = waiters.wait(1)
    waiters.close()
    await asyncio.sleep(2 * PATIENCE_S)

    assert not first.done()
    DurabilityWaiters(PATIENCE_S).close()
