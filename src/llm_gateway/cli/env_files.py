"""Option `--env-file` of the commands that read the gateway's settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from llm_gateway.cli.exits import USAGE, CommandFailed

EnvFiles: TypeAlias = Annotated[
    list[str] | None,
    Parameter(
        name="--env-file",
        negative="",
        help="a file with settings, NAME=value a line, which wins over variables; repeat it: later files win "
        "[LLM_GATEWAY_ENV_FILE]",
    ),
]


def joined(paths: Sequence[str]) -> str:
    """Return the paths as the variable LLM_GATEWAY_ENV_FILE takes them.

    Raises:
        CommandFailed: a path is empty, or holds the character that separates the paths.
    """
    for path in paths:
        if not path or os.pathsep in path:
            raise CommandFailed(f"--env-file takes the path of a file without {os.pathsep!r}, not {path!r}.", USAGE)
    return os.pathsep.join(paths)
