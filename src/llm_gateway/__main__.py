"""Run the supervisor process, which starts the gateway's other processes (`python -m llm_gateway`)."""

from __future__ import annotations

import sys

from llm_gateway.entry import run_entry

TYPE_CHECKING = False  # the module typing needs half a megabyte of memory
if TYPE_CHECKING:
    from llm_gateway.supervisor.launcher import Launch


def main(launch: Launch | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    `launch` starts a child process; None starts a new interpreter, and lets a reload replace this program, too.
    """
    arguments = sys.argv[1:]

    def run() -> int:
        from llm_gateway.supervisor import run_supervisor  # noqa: PLC0415 - see `run_entry`
        from llm_gateway.supervisor.launcher import spawn_module  # noqa: PLC0415

        if launch is not None:
            return run_supervisor(launch)
        # -P: a file in the working directory must not be imported in place of a module.
        command = (sys.executable, "-P", "-m", "llm_gateway")
        return run_supervisor(spawn_module, command=command, arguments=arguments)

    return run_entry(run, is_resumed=arguments[:1] == ["--resume"])


if __name__ == "__main__":
    sys.exit(main())
