"""The lock that one control process at a time holds."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from llm_gateway.control.control_lock import take_control_lock
from llm_gateway.errors import ConfigurationError


async def test_a_second_one_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    first = await take_control_lock(tmp_path)
    second = asyncio.create_task(take_control_lock(tmp_path))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(second), 0.1)
    os.close(first)
    async with asyncio.timeout(5):
        taken = await second
    assert not os.get_inheritable(taken)
    os.close(taken)


async def test_a_wait_that_is_cancelled_leaves_the_lock_to_others(tmp_path: Path) -> None:
    first = await take_control_lock(tmp_path)
    waiting = asyncio.create_task(take_control_lock(tmp_path))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    os.close(first)
    async with asyncio.timeout(5):
        os.close(await take_control_lock(tmp_path))


async def test_a_directory_that_is_missing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"control\.lock cannot be locked \(No such file or directory\): set"):
        await take_control_lock(tmp_path / "missing")
