"""Program that runs the supervisor with `dummy_child.py` in place of control and workers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from llm_gateway.__main__ import main
from llm_gateway.supervisor.launcher import spawn, spawn_module

DUMMY = f"{__file__.rpartition('/')[0]}/dummy_child.py"


def launch(module: str, arguments: Sequence[str], descriptors: Mapping[int, int]) -> int:
    """Start the dummy for control and workers, and the real child that reads the settings."""
    if module == "llm_gateway.settings_child":
        return spawn_module(module, arguments, descriptors)
    return spawn([sys.executable, "-P", DUMMY, module, *arguments], descriptors)


if __name__ == "__main__":
    sys.exit(main(launch))
