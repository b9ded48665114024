"""Settings as the supervisor needs them: read by a short-lived child, kept as a file that all children inherit."""

from __future__ import annotations

import json
import os

from llm_gateway.entry import complain
from llm_gateway.inherited import unnamed_file
from llm_gateway.supervisor.launcher import Launch, exit_reason, failure_reason

LEAVING_S = 15.0
"""Seconds that a child can take to end, beyond its time to accept and drain."""
WORKERS_LEAVING_S, WHOLE_LEAVING_S = 8.0, 9.0
"""Seconds that workers, and all children together, can take at the stop of the gateway, beyond their times to accept
and drain. Workers cancel what still runs then (`server.CANCEL_S`) and sync their journals. Process managers wait for 10
(docs/SETUP.md): what is not over by then would be killed anyway, and without a line in the log."""
SETTINGS_MODULE = "llm_gateway.settings_child"
FIXED = ("host", "port", "admin_host", "admin_port", "data_dir", "database_url")
"""Settings that cannot change while the gateway runs."""
ADDED: dict[str, object] = {"admin_host": "127.0.0.1", "admin_port": 0}
"""Settings that documents of earlier versions do not have, with their defaults."""


class SupervisorSettings:
    """The settings that the supervisor itself uses, from the document with all; see `Settings` for their meaning.

    `stop_seconds` is the longest time in which a child can stop while others serve, `leaving_seconds` the part of it
    that is no setting. `whole_stop_seconds` is the time of the whole gateway, `workers_stop_seconds` the workers' part.
    """

    def __init__(self, document: bytes, leaving_s: float = LEAVING_S) -> None:
        values = ADDED | json.loads(document)
        self.host: str = values["host"]
        self.port: int = values["port"]
        self.admin_host: str = values["admin_host"]
        self.admin_port: int = values["admin_port"]
        self.workers: int = values["workers"]
        self.data_dir: str = values["data_dir"]
        self.leaving_seconds = leaving_s
        accept_s, drain_s = float(values["accept_seconds"]), float(values["drain_seconds"])
        self.stop_seconds = accept_s + drain_s + leaving_s
        self.workers_stop_seconds = accept_s + drain_s + min(leaving_s, WORKERS_LEAVING_S)
        self.whole_stop_seconds = accept_s + 2 * drain_s + min(2 * leaving_s, WHOLE_LEAVING_S)
        self.log_level: str = values["log_level"]
        self.log_format: str = values["log_format"]
        self.fixed: dict[str, object] = {name: values[name] for name in FIXED}


class SettingsRefused(Exception):
    """The settings cannot be read. The gateway ends with `code` if it was to start.

    `reason` is a sentence; it is empty if it is on stderr already.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


def read_settings_in_child(launch: Launch) -> bytes:
    """Return all settings as a JSON document.

    Raises:
        SettingsRefused: the settings cannot be read.
    """
    ours, theirs = os.pipe()
    try:
        pid = launch(SETTINGS_MODULE, (), {1: theirs})
    finally:
        os.close(theirs)
    with open(ours, "rb") as pipe:
        document = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        complain(f"The settings cannot be read: the process that reads them ended with {exit_reason(code)}.")
    if code or not document:  # without a document and with exit code 0 it was stopped by a signal
        raise SettingsRefused(code if code >= 0 else 1)
    return document


class SettingsReading:
    """A child that reads the settings again while the supervisor goes on; it is over when process `pid` has ended.

    Raises:
        OSError: the system cannot start a process.
    """

    def __init__(self, launch: Launch) -> None:
        self._document = unnamed_file()
        self._errors = unnamed_file()
        try:
            self.pid = launch(SETTINGS_MODULE, (), {1: self._document, 2: self._errors})
        except OSError:
            self.close()
            raise

    def result(self, code: int) -> bytes:
        """Return all settings as a JSON document, once the process has ended with `code`.

        Raises:
            SettingsRefused: the settings cannot be read.
        """
        document, errors = _contents(self._document), _contents(self._errors).decode("utf-8", "replace")
        if code or not document:
            reason = failure_reason(errors)
            raise SettingsRefused(code, reason or f"The settings cannot be read: {exit_reason(code)}.")
        return document

    def close(self) -> None:
        """Close the files. Call it once."""
        os.close(self._document)
        os.close(self._errors)


def _contents(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def store_settings(document: bytes) -> int:
    """Return the descriptor of an unnamed file with the document, which never reaches a disk on Linux."""
    descriptor = unnamed_file()
    written = 0
    while written < len(document):
        written += os.pwrite(descriptor, document[written:], written)
    return descriptor
