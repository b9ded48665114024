"""Replace the command line's process with the supervisor process (execve(2))."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from llm_gateway.inherited import OPTIONS


def exec_server(options: Mapping[str, str]) -> NoReturn:
    """Replace this process with the server, and pass it `options` (setting → text) as environment variables."""
    environment = os.environ | {f"LLM_GATEWAY_{name.upper()}": text for name, text in options.items()}
    environment[OPTIONS] = ",".join(options)
    # -P: a file in the working directory must not be imported in place of a module.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "llm_gateway"], environment)  # noqa: S606 - our own interpreter
