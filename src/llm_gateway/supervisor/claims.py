"""Take the data directory and the TCP address; wait for children that outlive a killed supervisor to leave them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from llm_gateway.configuration_error import ConfigurationError
from llm_gateway.data_dir import DataDir
from llm_gateway.listening import bind
from llm_gateway.supervisor.log_lines import SupervisorLog
from llm_gateway.supervisor.settings_file import SupervisorSettings


def claim(settings: SupervisorSettings) -> tuple[DataDir, socket.socket]:
    """Return the locked data directory and the bound socket, which does not listen yet.

    The address comes first, so that a start that fails makes no directory.

    Raises:
        ConfigurationError: one of them cannot be used; the message says what to set.
    """
    try:
        sock = bind(settings.host, settings.port)
    except ConfigurationError as problem:
        if not _is_in_use(problem) or not os.path.isdir(settings.data_dir):
            raise
        return _claim_later(settings, problem)
    with contextlib.ExitStack() as opened:
        opened.enter_context(sock)
        data_dir = _lock(settings, _Waiting(settings))
        opened.pop_all()
        return data_dir, sock


def _claim_later(settings: SupervisorSettings, problem: ConfigurationError) -> tuple[DataDir, socket.socket]:
    """Take the address after the children of a killed supervisor have ended; raise `problem` if there are none."""
    waiting = _Waiting(settings)
    data_dir = _lock(settings, waiting)
    with contextlib.ExitStack() as opened:
        opened.callback(data_dir.close)
        if not waiting.has_begun:
            raise problem
        sock = bind(settings.host, settings.port)
        opened.pop_all()
        return data_dir, sock


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
