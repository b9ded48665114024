"""Run the server process: protect it, handle early signals, end failed starts with one sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from types import FrameType

from llm_gateway.process import protect_process

STDERR = 2
COMPLAINT_S = 1.0
"""Seconds to wait for space in a full stderr pipe before the error message is dropped."""


def main() -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    Imports take most of the start-up time. Until the server installs its own signal handlers nothing is open, so an
    earlier signal ends the process at once; Python's default for Ctrl-C would print a traceback.
    """
    protect_process()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    from llm_gateway.errors import ConfigurationError, StoreUnavailable  # noqa: PLC0415 - see above
    from llm_gateway.settings_reader import load_settings  # noqa: PLC0415

    try:
        settings = load_settings()
        from llm_gateway.app import run  # noqa: PLC0415 - settings errors are reported without this slow import

        return run(settings)
    except ConfigurationError as error:
        _complain(str(error))
        return ConfigurationError.exit_code
    except StoreUnavailable as error:
        _complain(error.detail)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # everything is closed: a second signal may end it
            signal.signal(number, _end)


def _complain(text: str) -> None:
    """Write why the gateway cannot start to stderr. A stderr that is closed or full does not change the exit code."""
    with contextlib.suppress(OSError):
        _, writable, _ = select.select([], [STDERR], [], COMPLAINT_S)
        if writable:
            os.write(STDERR, f"llm-gateway: {text}\n".encode("utf-8", "backslashreplace"))


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
