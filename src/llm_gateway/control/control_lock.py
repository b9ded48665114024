"""Lock of the one control process that may use the database: a new one waits until the one before it has ended."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from llm_gateway.errors import ConfigurationError

NAME = "control.lock"
"""The locked file in the data directory."""
RETRY_S = 0.01


async def take_control_lock(data_dir: Path) -> int:
    """Wait until no other process holds the lock, and take it. Returns the descriptor that holds it until it is closed.

    Child processes do not inherit it, so that the lock ends with this process (flock(2)).

    Raises:
        ConfigurationError: the file cannot be made or locked.
    """
    try:
        descriptor = os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _take(descriptor)
        except BaseException:  # edge: the descriptor has no owner yet
            os.close(descriptor)
            raise
    except OSError as error:
        raise ConfigurationError(
            f"The file {data_dir / NAME} cannot be locked ({error.strerror}): "
            "set LLM_GATEWAY_DATA_DIR to a writable directory on a file system that supports locks."
        ) from None
    return descriptor


async def _take(descriptor: int) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(RETRY_S)
        else:
            return
