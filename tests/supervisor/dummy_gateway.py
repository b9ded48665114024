"""Program that runs the supervisor with `dummy_child.py` in place of control and workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from llm_gateway.entry import run_entry
from llm_gateway.supervisor import run_supervisor
from llm_gateway.supervisor.launcher import spawn, spawn_module

DUMMY = f"{__file__.rpartition('/')[0]}/dummy_child.py"


def launch(module: str, arguments: Sequence[str], descriptors: Mapping[int, int]) -> int:
    """Start the dummy for control and workers, and the real child that reads the settings."""
    if module == "llm_gateway.settings_child":
        return spawn_module(module, arguments, descriptors)
    return spawn([sys.executable, "-P", DUMMY, module, *arguments], descriptors)


if __name__ == "__main__":
    sys.exit(run_entry(lambda: run_supervisor(launch, leaving_s=float(os.environ["DUMMY_LEAVING_S"]))))
