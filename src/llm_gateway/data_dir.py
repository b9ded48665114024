"""Lock the data directory, so that only one gateway uses it at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from llm_gateway.errors import ConfigurationError


class DataDir:
    """The data directory, locked until `close`; the kernel releases the lock however the process ends (flock(2))."""

    def __init__(self, path: Path) -> None:
        """Create the directory if it is missing, and lock it.

        Raises:
            ConfigurationError: the directory cannot be written or locked, or another gateway holds its lock.
        """
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(
                f"The data directory {str(self.path)!r} cannot be used ({reason}): "
                "set LLM_GATEWAY_DATA_DIR to a writable directory."
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise ConfigurationError(
                f"Another gateway uses the data directory {self.path}: stop it, or set LLM_GATEWAY_DATA_DIR to another."
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise ConfigurationError(
                f"The data directory {self.path} cannot be locked ({error.strerror}): "
                "set LLM_GATEWAY_DATA_DIR to a directory on a file system that supports locks."
            ) from None

    def close(self) -> None:
        """Release the lock. Call it once."""
        os.close(self._fd)
