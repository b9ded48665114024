"""Settings as the supervisor needs them: read by a short-lived child, kept as a file that all children inherit."""

from __future__ import annotations

import json
import os

from llm_gateway.entry import complain
from llm_gateway.supervisor.launcher import Launch, exit_reason

LEAVING_S = 15.0
"""Seconds that a child can take to end, beyond its time to accept and drain."""
SETTINGS_MODULE = "llm_gateway.settings_child"


class SupervisorSettings:
    """The settings that the supervisor itself uses, from the document with all; see `Settings` for their meaning.

    `stop_seconds` is the longest time in which a child can stop, `leaving_s` the part of it that is no setting.
    """

    def __init__(self, document: bytes, leaving_s: float = LEAVING_S) -> None:
        values = json.loads(document)
        self.host: str = values["host"]
        self.port: int = values["port"]
        self.workers: int = values["workers"]
        self.data_dir: str = values["data_dir"]
        self.stop_seconds: float = values["accept_seconds"] + values["drain_seconds"] + leaving_s
        self.log_level: str = values["log_level"]
        self.log_format: str = values["log_format"]


class SettingsRefused(Exception):
    """The settings cannot be read, and the reason is on stderr. The gateway ends with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


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


def store_settings(document: bytes) -> int:
    """Return the descriptor of an unnamed file with the document, which never reaches a disk on Linux."""
    descriptor = os.memfd_create("settings") if hasattr(os, "memfd_create") else _unnamed_file()
    written = 0
    while written < len(document):
        written += os.pwrite(descriptor, document[written:], written)
    return descriptor


def _unnamed_file() -> int:
    from tempfile import mkstemp  # noqa: PLC0415 - needs memory, and Linux needs it not

    descriptor, path = mkstemp()
    os.unlink(path)
    return descriptor
