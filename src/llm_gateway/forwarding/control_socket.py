"""Unix sockets of the control process: their files in the data directory, how to bind them, how to connect to them.

The address of a Unix socket holds at most 107 bytes of path (unix(7); 103 on macOS), and data directories can be
deeper. On Linux the path leads through an open descriptor of the directory: `/proc/self/fd/<descriptor>/control.sock`.
Systems without /proc use a directory below the temporary folder that only this user can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from llm_gateway.errors import ConfigurationError

NAME = "control.sock"
"""The socket of the management API, in the data directory."""
WATCH_S = 0.5
"""Seconds between two looks whether a socket's file is still there."""
DESCRIPTORS = Path("/proc/self/fd")
"""The open descriptors of this process, as paths (proc(5), Linux)."""


class ControlSocket:
    """The socket's address. `bind` is for the control process, `connect` for the workers.

    Args:
        data_dir: the data directory of the gateway, which both processes use.
        name: the file's name.
        descriptors: the folder with this process's descriptors as paths.

    Raises:
        OSError: the directory cannot be opened, or the one below the temporary folder belongs to another user.
    """

    def __init__(self, data_dir: Path, *, name: str = NAME, descriptors: Path = DESCRIPTORS) -> None:
        self.name = name
        has_paths = descriptors.is_dir()
        directory = data_dir if has_paths else _private_directory(data_dir)
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._below = f"{descriptors}/{self._fd}" if has_paths else str(directory)
        self._bound: tuple[int, int] | None = None

    def close(self) -> None:
        """Release the descriptor of the directory. Call it once."""
        os.close(self._fd)

    def bind(self) -> socket.socket:
        """Return a socket bound to the file, with mode 0600 and ready to listen.

        The file is replaced in one step, whether it is that of a process that is gone or of one that is to be
        succeeded, so that there is no moment without a file.

        Raises:
            OSError: the file cannot be made.
        """
        new = f".{os.getpid()}.{self.name}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._unlink(new)
            sock.bind(f"{self._below}/{new}")
            os.chmod(new, 0o600, dir_fd=self._fd)  # before `listen`: until then nobody can connect
            self._bound = _identity(os.stat(new, dir_fd=self._fd, follow_symlinks=False))
            os.replace(new, self.name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:  # edge: the socket has no owner yet
            sock.close()
            raise
        sock.setblocking(False)
        return sock

    def bind_at_start(self) -> socket.socket:
        """Return what `bind` returns; a file system without Unix sockets is an error that the operator must mend.

        Raises:
            ConfigurationError: the file cannot be made; the message says what to set.
        """
        try:
            return self.bind()
        except OSError as error:
            raise ConfigurationError(
                f"The socket {self.name} cannot be made in the data directory ({error.strerror}): set "
                "LLM_GATEWAY_DATA_DIR to a directory on a file system that has Unix sockets and space."
            ) from error

    def connect(self) -> socket.socket:
        """Return a connection to the control process. Never blocks: Unix sockets connect at once or not at all.

        Raises:
            OSError: nobody listens, or more connections wait to be accepted than the system allows.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(f"{self._below}/{self.name}")
        except BaseException:  # edge: the socket has no owner yet
            sock.close()
            raise
        return sock

    def is_served(self) -> bool:
        """Return whether the file leads to the socket that was bound last, or to another process that listens."""
        try:
            if _identity(os.stat(self.name, dir_fd=self._fd, follow_symlinks=False)) == self._bound:
                return True
            self.connect().close()
        except BlockingIOError:  # it listens, but too many connections wait
            return True
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Delete the file, unless another process has replaced it."""
        with contextlib.suppress(FileNotFoundError):
            if _identity(os.stat(self.name, dir_fd=self._fd, follow_symlinks=False)) == self._bound:
                self._unlink(self.name)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)


async def keep_bound(
    control: ControlSocket, listen: Callable[[socket.socket], Awaitable[object]], log: Callable[..., None]
) -> None:
    """Bind the socket again for ever, whenever its file is gone or is that of a process that does not listen.

    `listen` gets each new socket. `log` takes a line when it is bound again, and the first time that it cannot be.
    """
    is_failing = False
    while True:
        await asyncio.sleep(WATCH_S)
        if control.is_served():
            continue
        try:
            await listen(control.bind())
        except OSError as error:
            if not is_failing:
                log("control socket cannot be bound", level="error", file=control.name, problem=str(error))
            is_failing = True
        else:
            log("control socket bound again: its file was deleted", level="warning", file=control.name)
            is_failing = False


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _private_directory(data_dir: Path) -> Path:
    """Return the directory below the temporary folder for this data directory; make it if it is missing.

    Raises:
        PermissionError: it belongs to another user, or others can enter it.
    """
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()
    path = Path(tempfile.gettempdir(), f"llm-gateway-{digest[:16]}")
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"{path} must be a directory of this user with mode 0700, since the socket of the gateway's control "
            "process lies in it: delete it."
        )
    return path
