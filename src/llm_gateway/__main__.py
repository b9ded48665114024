"""Run the supervisor process, which starts the gateway's other processes (`python -m llm_gateway`)."""

from __future__ import annotations

import sys

from llm_gateway.entry import run_entry

TYPE_CHECKING = False  # the module typing needs half a megabyte of memory
if TYPE_CHECKING:
    from llm_gateway.supervisor.launcher import Launch


def main(launch: Launch | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    `launch` starts a child process; None starts a new interpreter.
    """

    def run() -> int:
        from llm_gateway.supervisor import run_supervisor  # noqa: PLC0415 - see `run_entry`
        from llm_gateway.supervisor.launcher import spawn_module  # noqa: PLC0415

        return run_supervisor(launch or spawn_module)

    return run_entry(run)


if __name__ == "__main__":
    sys.exit(main())
