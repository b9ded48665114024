"""What `llm-gateway serve` becomes: the server process."""

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
"""How long a full pipe is waited for."""


def main() -> int:
    """Serve until told to stop. Returns the exit code.

    Importing takes most of a start. Nothing is open before the server's own handlers are in place, so a signal that
    comes earlier may end the process at once; Python's own answer to Ctrl-C would be a traceback.
    """
    protect_process()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    from llm_gateway.errors import ConfigurationError, StoreUnavailable  # noqa: PLC0415 - see above
    from llm_gateway.settings_reader import load_settings  # noqa: PLC0415

    try:
        settings = load_settings()
        from llm_gateway.app import run  # noqa: PLC0415 - unfit settings are reported without waiting for it

        return run(settings)
    except ConfigurationError as error:
        _complain(str(error))
        return ConfigurationError.exit_code
    except StoreUnavailable as error:
        _complain(error.detail)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # all is closed: whoever does not want to wait need not
            signal.signal(number, _end)


def _complain(text: str) -> None:
    """Write why it cannot start; the exit code must not depend on whether anyone can read it."""
    with contextlib.suppress(OSError):
        _, writable, _ = select.select([], [STDERR], [], COMPLAINT_S)
        if writable:
            os.write(STDERR, f"llm-gateway: {text}\n".encode("utf-8", "backslashreplace"))


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
