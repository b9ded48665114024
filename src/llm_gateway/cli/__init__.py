"""Command line `llm-gateway`: one module for each command or group of commands.

`commands.py` has the tree of commands, `exits.py` the exit codes. `serve` replaces this process with the server
(`exec`), so that the command line's libraries cost the server neither time nor memory. For the same reason this module
imports only what that needs.
"""

from __future__ import annotations

import sys

from llm_gateway.cli.exec_server import exec_server
from llm_gateway.cli.exits import INTERRUPTED
from llm_gateway.process_setup import protect_process


def main() -> None:
    """Run the `llm-gateway` command (the entry point of the package)."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["serve"]:
            protect_process()
        if arguments == ["serve"]:
            exec_server({})
        from llm_gateway.cli.commands import run  # noqa: PLC0415 - see the module's docstring

        sys.exit(run(arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
