"""Lock of the one control process that may use the database: a new one waits until the one before it has ended.

Who deletes the file lets a new process lock another file with its name. So the process that holds the lock looks each
second whether its file is still there, and locks the new one as well. A new process that locks it within that second
then waits for the lock of a directory, which `rm` does not delete.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from llm_gateway.data_dir import lock_directory
from llm_gateway.errors import ConfigurationError

NAME = "control.lock"
"""The locked file in the data directory."""
DIRECTORY = "control-lock"
"""The locked directory in the data directory."""
REPLACED = "the control process's lock file was deleted, and the next control process has made it again"
RETRY_S = 0.01
LOOK_S = 1.0
"""Seconds between two looks at the file."""


async def take_control_lock(data_dir: Path) -> int:
    """Wait until no other process holds the lock, and take it. Returns the descriptor that holds it until it is closed.

    Child processes do not inherit it, so that the lock ends with this process (flock(2)).

    Raises:
        ConfigurationError: the file cannot be made or locked.
    """
    try:
        while True:
            descriptor = os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                await _take(descriptor)
            except BaseException:  # edge: the descriptor has no owner yet
                os.close(descriptor)
                raise
            if _is_at(data_dir / NAME, descriptor):
                return descriptor
            os.close(descriptor)  # its file was deleted meanwhile
    except OSError as error:
        raise ConfigurationError(
            f"The file {data_dir / NAME} cannot be locked ({error.strerror}): "
            "set LLM_GATEWAY_DATA_DIR to a writable directory on a file system that supports locks."
        ) from None


async def lock_control_directory(data_dir: Path) -> int | None:
    """Wait until no other process holds the lock of the directory, and take it. Returns the descriptor that holds it.

    Call it with the lock of the file: a process that locked an earlier file with that name is waited for here. None if
    the directory cannot be made (the disk may be full), or if its file system locks only files.
    """
    path = data_dir / DIRECTORY
    with suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
    while True:
        try:
            return lock_directory(path)
        except BlockingIOError:
            await asyncio.sleep(RETRY_S)


async def keep_control_lock(data_dir: Path, descriptor: int, log: Callable[..., None]) -> None:
    """Keep the lock, which `descriptor` holds, also if its file is deleted; log each time that it is. Never returns."""
    is_told = False
    with ExitStack() as held:
        while True:
            await asyncio.sleep(LOOK_S)
            if _is_at(data_dir / NAME, descriptor):
                is_told = False
                continue
            try:
                descriptor = _locked_again(data_dir / NAME, held)
            except BlockingIOError:
                if not is_told:
                    is_told = True
                    log(REPLACED, level="warning", file=NAME)
            except OSError:
                continue  # a full disk, or the directory is away: the next look tries again
            else:
                log("the control process's lock file was deleted, and is made again", level="warning", file=NAME)


def _locked_again(path: Path, held: ExitStack) -> int:
    """Make the file again, and lock it until `held` ends.

    Raises:
        OSError: that is not possible, or another process has locked it already.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    held.callback(os.close, descriptor)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file is the one at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


async def _take(descriptor: int) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(RETRY_S)
        else:
            return
