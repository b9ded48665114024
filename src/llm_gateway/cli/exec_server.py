"""Replace the command line's process by the server's."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def exec_server(flags: dict[str, str]) -> NoReturn:
    """Replace this process by the server, with `flags` (setting → text) in its environment."""
    environment = os.environ | {f"LLM_GATEWAY_{name.upper()}": text for name, text in flags.items()}
    # -P: a file in the directory it is started in must not stand in for a module.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "llm_gateway"], environment)  # noqa: S606 - our own interpreter
