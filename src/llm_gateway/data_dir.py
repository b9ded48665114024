"""Open and lock the data directory, so that only one gateway uses it at a time.

Two locks tell a running gateway from the children that outlive a killed supervisor, until their requests are answered:

    supervisor.lock   gateway.lock
    held              held           a gateway is running
    free              held           its supervisor was killed, and its children still drain
    free              free           nobody uses the directory

Files can be deleted, and others made at their paths. So the supervisor locks the directory itself, too. Version 0.1.0
does not.

supervisor.lock also says who is running, for `llm-gateway reload`: the process id; how many reloads have begun, and how
many are over; why the last one failed, empty if it did not. Each is a line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Sequence

from llm_gateway.configuration_error import ConfigurationError

LOCK = "supervisor.lock"
IN_USE = "Another gateway uses the data directory {path}: stop it, or set LLM_GATEWAY_DATA_DIR to another."
RETRY_S = 0.05
"""Seconds between two attempts to take the lock of draining processes."""
DIRECTORY_TRIES = 3
"""Attempts to lock the directory: a command that only looks (`is_locked`) holds its lock for a moment."""


class DataDir:
    """The data directory, locked until `close`; the kernel releases the locks however the process ends (flock(2)).

    `path` is absolute. `shared_lock` is the descriptor of gateway.lock: processes that inherit it keep that lock.
    `directory_lock` is that of the directory itself, None on a file system that locks only files (NFS).
    """

    def __init__(
        self, path: str | os.PathLike[str], *, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """Create the directory if it is missing, and lock it.

        Args:
            path: the data directory.
            wait_s: seconds to wait for the children of a killed supervisor, which still use the directory.
            on_wait: called once before such a wait.

        Raises:
            ConfigurationError: the directory cannot be written or locked, or another gateway holds its locks.
        """
        self.path = os.path.abspath(path)
        with contextlib.ExitStack() as opened:
            own_lock = self._open(LOCK, opened)
            self._take(own_lock)
            self.directory_lock = self._lock_directory(opened)
            self.shared_lock = self._open("gateway.lock", opened)
            self._wait_for(self.shared_lock, wait_s, on_wait)
            self._own_lock = own_lock
            self._write_pid(own_lock)
            self._opened = opened.pop_all()

    @classmethod
    def inherited(cls, path: str, locks: Sequence[int], directory_lock: int | None) -> DataDir:
        """Return a data directory that this process has locked before it ran this code; `locks` as in the property.

        `directory_lock` is None if the code before has not locked the directory itself.
        """
        found = cls.__new__(cls)
        found.path = path
        found._own_lock, found.shared_lock = locks
        found._opened = contextlib.ExitStack()
        found.directory_lock = directory_lock
        if directory_lock is None:
            with contextlib.suppress(BlockingIOError):
                found.directory_lock = lock_directory(path)
        for descriptor in (*locks, found.directory_lock):
            if descriptor is not None:
                found._opened.callback(os.close, descriptor)
        return found

    @property
    def locks(self) -> list[int]:
        """The descriptors of both locks, the supervisor's own first."""
        return [self._own_lock, self.shared_lock]

    def write_reloads(self, begun: int, ended: int, problem: str = "") -> None:
        """Write the numbers of reloads, and why the last one failed, for `running_gateway`."""
        text = f"{os.getpid()}\n{begun} {ended}\n{' '.join(problem.split())}\n".encode()
        with contextlib.suppress(OSError):  # a full disk: the command waits in vain, and the log has it
            os.pwrite(self._own_lock, text, 0)  # readers use three lines, so that a longer text before does no harm
            os.ftruncate(self._own_lock, len(text))

    def close(self) -> None:
        """Release the locks. Call it once."""
        self._opened.close()

    def _open(self, name: str, opened: contextlib.ExitStack) -> int:
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            descriptor = os.open(os.path.join(self.path, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(
                f"The data directory {self.path!r} cannot be used ({reason}): "
                "set LLM_GATEWAY_DATA_DIR to a writable directory."
            ) from None
        opened.callback(os.close, descriptor)
        return descriptor

    def _lock_directory(self, opened: contextlib.ExitStack) -> int | None:
        for _ in range(DIRECTORY_TRIES):
            try:
                descriptor = lock_directory(self.path)
            except BlockingIOError:
                time.sleep(RETRY_S)
                continue
            if descriptor is not None:
                opened.callback(os.close, descriptor)
            return descriptor
        raise AnotherGateway(IN_USE.format(path=self.path))

    def _write_pid(self, lock: int) -> None:
        """Write the process id into the lock file; a full disk or a limit of file sizes is found here."""
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise ConfigurationError(
                f"The data directory {self.path} cannot be written ({error.strerror}): free space, or set "
                "LLM_GATEWAY_DATA_DIR to a directory on another disk."
            ) from None

    def _wait_for(self, lock: int, wait_s: float, on_wait: Callable[[], None]) -> None:
        deadline, waiting = time.monotonic() + wait_s, False
        while True:
            try:
                self._take(lock)
                return
            except AnotherGateway:
                if time.monotonic() >= deadline:
                    raise
            if not waiting:
                waiting = True
                on_wait()
            time.sleep(RETRY_S)

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherGateway(IN_USE.format(path=self.path)) from None
        except OSError as error:
            raise ConfigurationError(
                f"The data directory {self.path} cannot be locked ({error.strerror}): "
                "set LLM_GATEWAY_DATA_DIR to a directory on a file system that supports locks."
            ) from None


def lock_directory(path: str | os.PathLike[str]) -> int | None:
    """Lock a directory itself. Returns the descriptor that holds the lock, None if its file system locks only files.

    Raises:
        BlockingIOError: another process holds it.
    """
    return _lock(path, fcntl.LOCK_EX)


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Return whether a process has locked a file or a directory: a shared lock, released at once, cannot be taken."""
    try:
        descriptor = _lock(path, fcntl.LOCK_SH)
    except BlockingIOError:
        return True
    if descriptor is not None:
        os.close(descriptor)
    return False


def _lock(path: str | os.PathLike[str], operation: int) -> int | None:
    """Lock a file or directory. Returns the descriptor, None if it cannot be opened or its file system has no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class RunningGateway:
    """Contents of `supervisor.lock`: process id, reloads that have begun and ended, why the last one failed."""

    def __init__(self, text: str) -> None:
        pid, counts, problem, *_ = [*text.split("\n"), "", ""]
        self.pid = int(pid)
        self.begun, self.ended = (int(count) for count in (counts or "0 0").split())
        self.problem = problem


def running_gateway(path: str | os.PathLike[str]) -> RunningGateway | None:
    """Return the gateway that runs on a data directory, or None if no gateway runs on it.

    Raises:
        OSError: the lock file cannot be read.
    """
    try:
        descriptor = os.open(os.path.join(path, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, encoding="utf-8") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read()
        else:
            return None
    return RunningGateway(text) if text else None  # empty: it is starting


class AnotherGateway(ConfigurationError):
    """Another process holds a lock of the data directory."""
