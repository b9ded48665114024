"""Entry of a worker process, which the supervisor starts: `python -m llm_gateway.worker --settings FD --leash FD …`."""

from __future__ import annotations

import sys

from llm_gateway.entry import run_entry
from llm_gateway.inherited import from_arguments


def main() -> int:
    """Run the process to its end. Returns the exit code."""
    return run_entry(_run)


def _run() -> int:
    from llm_gateway.worker.serve import serve  # noqa: PLC0415 - a signal during this slow import ends the process

    return serve(from_arguments(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
