"""Command `reload`: replace all processes of the gateway that runs on a data directory, and wait until that is done."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.exits import CommandFailed
from llm_gateway.data_dir import LOCK, RunningGateway, is_locked, running_gateway
from llm_gateway.settings_reader import load_settings

LOOK_S = 0.05
SILENT_S = 120.0
"""Seconds in which a gateway must begin: it may still be starting."""


def reload(
    *,
    data_dir: Annotated[
        Path | None, Parameter(help="the running gateway's data directory; without it that of the settings here")
    ] = None,
    env_file: EnvFiles = None,
) -> None:
    """Replace the running gateway's processes, without any interruption.

    The gateway reads again the files that it was started with: those of `--env-file`, files with secrets and `.env`.
    Variables and flags stay as they were when it started. Settings that do not fit are refused, and nothing is
    replaced. The command returns when the old processes have ended, after the answers that they were giving.

    With `--env-file` here, the data directory is that of these files.

    ```sh
    llm-gateway reload
    llm-gateway reload --data-dir /var/lib/llm-gateway
    ```
    """
    path = data_dir or load_settings(env_files=env_file).data_dir
    before = _running(path)
    try:
        os.kill(before.pid, signal.SIGHUP)
    except PermissionError:
        raise CommandFailed(
            f"The gateway (process {before.pid}) runs as another user: run this command as that user."
        ) from None
    except ProcessLookupError:
        raise CommandFailed(
            f"The gateway (process {before.pid}) is not visible here: run this command where it runs."
        ) from None
    after = _wait(path, before)
    if after.problem:
        raise CommandFailed(f"Not reloaded: {after.problem}")
    print("Reloaded: new processes serve, and the old ones have ended.")


def _wait(path: Path, before: RunningGateway) -> RunningGateway:
    """Wait until the next reload is over; one that is under way was begun with the settings before."""
    silent_since = time.monotonic()
    while True:
        now = _running(path)
        if now.pid != before.pid:
            raise CommandFailed("The gateway was restarted meanwhile, with the settings of its new start: see its log.")
        if now.ended > before.begun:
            return now
        if now.begun > now.ended:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > SILENT_S:
            raise CommandFailed(f"The gateway (process {now.pid}) does not begin to reload: see its log.")
        time.sleep(LOOK_S)


def _running(path: Path) -> RunningGateway:
    try:
        found = running_gateway(path)
    except OSError as error:
        raise CommandFailed(
            f"The data directory {path} cannot be read ({error.strerror}): run this command as the gateway's user, or "
            "give its --data-dir."
        ) from None
    if found is None and is_locked(path):
        raise CommandFailed(
            f"A gateway runs on the data directory {path}, but its file {LOCK} was deleted, which names its process: "
            "send SIGHUP to the process yourself, or restart it."
        )
    if found is None:
        raise CommandFailed(f"No gateway runs on the data directory {path}: start it, or give its --data-dir.")
    return found
