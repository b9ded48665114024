"""The data directory: one gateway at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from llm_gateway.errors import ConfigurationError


class DataDir:
    """Holds the directory's lock until it is closed; the kernel releases it however the process ends."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is missing, and lock it.

        Raises:
            ConfigurationError: it cannot be written, or another gateway holds it.
        """
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:  # ValueError: a NUL in its name
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
                "set LLM_GATEWAY_DATA_DIR to one on a file system that has locks."
            ) from None

    def close(self) -> None:
        """Let others have it."""
        os.close(self._fd)
