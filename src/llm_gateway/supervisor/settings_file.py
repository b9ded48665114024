"""Settings as the supervisor needs them: read by a short-lived child, kept as a file that all children inherit."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from llm_gateway.entry import complain
from llm_gateway.supervisor.launcher import Launch, exit_reason

SETTINGS_MODULE = "llm_gateway.settings_child"


class SupervisorSettings(NamedTuple):
    """The settings that the supervisor itself uses; see `Settings` for their meaning."""

    host: str
    port: int
    workers: int
    data_dir: str
    accept_seconds: float
    drain_seconds: float
    log_level: str
    log_format: str


class SettingsRefused(Exception):
    """The settings are not valid, and the child has reported it. The gateway ends with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def read_settings_in_child(launch: Launch) -> tuple[bytes, SupervisorSettings]:
    """Return all settings as a JSON document, and those of the supervisor.

    Raises:
        SettingsRefused: the settings are not valid.
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
    if code:
        raise SettingsRefused(max(code, 1))
    values = json.loads(document)
    return document, SupervisorSettings(**{name: values[name] for name in SupervisorSettings._fields})


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
