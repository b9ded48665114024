"""What `llm-gateway serve` becomes: the server process."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from llm_gateway.process import protect_process


def main() -> int:
    """Serve until told to stop. Returns the exit code.

    Importing takes most of a start. Nothing is open before the server's own handlers are in place, so a signal that
    comes earlier may end the process at once; Python's own answer to Ctrl-C would be a traceback.
    """
    protect_process()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    from llm_gateway.app import run  # noqa: PLC0415 - see above
    from llm_gateway.errors import ConfigurationError, StoreUnavailable  # noqa: PLC0415
    from llm_gateway.settings import load_settings  # noqa: PLC0415

    try:
        return run(load_settings())
    except ConfigurationError as error:
        print(f"llm-gateway: {error}", file=sys.stderr)
        return ConfigurationError.exit_code
    except StoreUnavailable as error:
        print(f"llm-gateway: {error.detail}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # all is closed: whoever does not want to wait need not
            signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
