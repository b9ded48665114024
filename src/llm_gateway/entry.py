"""Entry of each process of the gateway: protect it, handle early signals, end failed starts with one sentence."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from types import FrameType

from llm_gateway.configuration_error import ConfigurationError
from llm_gateway.process_setup import protect_process

TYPE_CHECKING = False  # the module typing needs half a megabyte of the supervisor's memory
if TYPE_CHECKING:
    from llm_gateway.errors import StoreUnavailable

STDERR = 2
COMPLAINT_S = 1.0
"""Seconds to wait for space in a full stderr pipe before the error message is dropped."""


def run_entry(run: Callable[[], int], *, is_resumed: bool = False) -> int:
    """Run the process in `run`, and return its exit code, or that of the error which ended it.

    Imports take most of the start-up time, so `run` imports what it needs. Until it installs signal handlers of its own
    nothing is open, so an earlier signal ends the process at once; Python's default for Ctrl-C would print a traceback.

    `is_resumed`: this program took the place of another in the same process, which was protected. Signals wait: to
    ignore one would drop it.
    """
    if not is_resumed:
        protect_process()
        _end_on_signals()
    try:
        return run()
    except ConfigurationError as error:
        complain(str(error))
        return ConfigurationError.exit_code
    except _store_unavailable() as error:
        complain(error.detail)
        return 1
    finally:
        _end_on_signals()  # everything is closed: a second signal may end it


def _store_unavailable() -> type[StoreUnavailable]:
    """Import the class only when there is an error; the supervisor never needs it."""
    from llm_gateway.errors import StoreUnavailable  # noqa: PLC0415 - see above

    return StoreUnavailable


def complain(text: str) -> None:
    """Write why the gateway cannot start to stderr. A stderr that is closed or full does not change the exit code."""
    with contextlib.suppress(OSError):
        _, writable, _ = select.select([], [STDERR], [], COMPLAINT_S)
        if writable:
            os.write(STDERR, f"llm-gateway: {text}\n".encode("utf-8", "backslashreplace"))


def _end_on_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
