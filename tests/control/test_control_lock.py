"""The lock that one control process at a time holds."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from llm_gateway.control import control_lock
from llm_gateway.control.control_lock import (
    DIRECTORY,
    NAME,
    keep_control_lock,
    lock_control_directory,
    take_control_lock,
)
from llm_gateway.errors import ConfigurationError
from tests.waiting import until


def has_lines(lines: list[str], number: int) -> bool:
    return len(lines) == number


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


async def test_a_lock_whose_file_is_deleted_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_lock, "LOOK_S", 0.01)
    lines: list[str] = []
    first = await take_control_lock(tmp_path)
    keeping = asyncio.create_task(keep_control_lock(tmp_path, first, lambda event, **_: lines.append(event)))
    for deleted in (1, 2):
        (tmp_path / NAME).unlink()
        await until(partial(has_lines, lines, deleted))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take_control_lock(tmp_path), 0.1)
    assert set(lines) == {"the control process's lock file was deleted, and is made again"}
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    os.close(first)
    async with asyncio.timeout(5):
        os.close(await take_control_lock(tmp_path))


async def test_a_file_that_was_deleted_during_the_wait_is_not_the_lock(tmp_path: Path) -> None:
    first = await take_control_lock(tmp_path)
    waiting = asyncio.create_task(take_control_lock(tmp_path))
    await asyncio.sleep(0)
    (tmp_path / NAME).unlink()
    os.close(first)
    async with asyncio.timeout(5):
        second = await waiting
    assert os.path.samestat(os.fstat(second), (tmp_path / NAME).stat())
    os.close(second)


async def test_a_file_that_another_process_has_locked_meanwhile_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_lock, "LOOK_S", 0.01)
    lines: list[str] = []
    first = await take_control_lock(tmp_path)
    directory = await lock_control_directory(tmp_path)
    assert directory is not None
    (tmp_path / NAME).unlink()
    second = await take_control_lock(tmp_path)
    waiting = asyncio.create_task(lock_control_directory(tmp_path))
    keeping = asyncio.create_task(keep_control_lock(tmp_path, first, lambda event, **_: lines.append(event)))
    await until(partial(has_lines, lines, 1))
    await asyncio.sleep(0.1)
    assert lines == ["the control process's lock file was deleted, and the next control process has made it again"]
    assert not waiting.done()

    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    os.close(directory)
    async with asyncio.timeout(5):
        taken = await waiting
    assert taken is not None
    for descriptor in (taken, second, first):
        os.close(descriptor)


async def test_a_directory_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).symlink_to(tmp_path / "missing" / "too")
    assert await lock_control_directory(tmp_path) is None
