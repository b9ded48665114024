"""Take the data directory and the TCP addresses; wait for children that outlive a killed supervisor to leave them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from llm_gateway.configuration_error import ConfigurationError
from llm_gateway.data_dir import DataDir
from llm_gateway.listening import ADMIN_SETTINGS, bind
from llm_gateway.supervisor.log_lines import SupervisorLog
from llm_gateway.supervisor.settings_file import SupervisorSettings


class Sockets:
    """The bound sockets, which do not listen yet: `public` for calls, and `admin` if the admin port is set.

    Raises:
        ConfigurationError: an address cannot be used; the message says what to set.
    """

    def __init__(self, settings: SupervisorSettings) -> None:
        self.public = bind(settings.host, settings.port)
        self.admin: socket.socket | None = None
        if settings.admin_port:
            try:
                self.admin = bind(settings.admin_host, settings.admin_port, ADMIN_SETTINGS)
            except ConfigurationError:
                self.public.close()
                raise

    def close(self) -> None:
        """Close the sockets."""
        self.public.close()
        if self.admin is not None:
            self.admin.close()


def claim(settings: SupervisorSettings) -> tuple[DataDir, Sockets]:
    """Return the locked data directory and the bound sockets.

    The addresses come first, so that a start that fails makes no directory.

    Raises:
        ConfigurationError: one of them cannot be used; the message says what to set.
    """
    try:
        sockets = Sockets(settings)
    except ConfigurationError as problem:
        if not _is_in_use(problem) or not os.path.isdir(settings.data_dir):
            raise
        return _claim_later(settings, problem)
    with contextlib.ExitStack() as opened:
        opened.callback(sockets.close)
        data_dir = _lock(settings, _Waiting(settings))
        opened.pop_all()
        return data_dir, sockets


def _claim_later(settings: SupervisorSettings, problem: ConfigurationError) -> tuple[DataDir, Sockets]:
    """Take the addresses after the children of a killed supervisor have ended; raise `problem` if there are none."""
    waiting = _Waiting(settings)
    data_dir = _lock(settings, waiting)
    with contextlib.ExitStack() as opened:
        opened.callback(data_dir.close)
        if not waiting.has_begun:
            raise problem
        sockets = Sockets(settings)
        opened.pop_all()
        return data_dir, sockets


def _lock(settings: SupervisorSettings, waiting: _Waiting) -> DataDir:
    return DataDir(settings.data_dir, wait_s=waiting.longest_s, on_wait=waiting.begin)


def _is_in_use(problem: ConfigurationError) -> bool:
    return isinstance(problem.__cause__, OSError) and problem.__cause__.errno == errno.EADDRINUSE


class _Waiting:
    """The wait for children of a killed supervisor: its longest time, and whether it was necessary."""

    def __init__(self, settings: SupervisorSettings) -> None:
        self.longest_s = settings.stop_seconds
        self.has_begun = False
        self._log = SupervisorLog(settings.log_level, settings.log_format)

    def begin(self) -> None:
        """Log once that the start waits."""
        self.has_begun = True
        self._log("waiting for the processes of a killed gateway to end", level="warning", at_most_s=self.longest_s)
