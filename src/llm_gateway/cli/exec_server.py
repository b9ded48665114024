"""Replace the command line's process with the supervisor process (execve(2))."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def exec_server(flags: dict[str, str]) -> NoReturn:
    """Replace this process with the server, and pass it `flags` (setting → text) as environment variables."""
    environment = os.environ | {f"LLM_GATEWAY_{name.upper()}": text for name, text in flags.items()}
    # -P: a file in the working directory must not be imported in place of a module.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "llm_gateway"], environment)  # noqa: S606 - our own interpreter
