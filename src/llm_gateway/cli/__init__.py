"""The command line: one noun a file; `commands.py` is the tree of commands, `exits.py` how they end.

`serve` becomes the server process (`exec`), so that the command line's own libraries take neither time nor memory
there; that is why this file imports nothing but what it needs for that.
"""

from __future__ import annotations

import sys

from llm_gateway.cli.exec_server import exec_server
from llm_gateway.cli.exits import INTERRUPTED
from llm_gateway.process import protect_process


def main() -> None:
    """The entry of the `llm-gateway` command."""
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
