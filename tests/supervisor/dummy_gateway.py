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


def main() -> int:
    """Run the supervisor; with DUMMY_FORKS set, its children are forked from it."""
    leaving_s = float(os.environ["DUMMY_LEAVING_S"])
    if "DUMMY_FORKS" not in os.environ:
        arguments = sys.argv[1:]
        command = (sys.executable, "-P", "-m", "dummy_gateway")
        return run_entry(
            lambda: run_supervisor(launch, leaving_s, command=command, arguments=arguments),
            is_resumed=arguments[:1] == ["--resume"],
        )
    from tests.fork_server import CHILDREN, ForkingLauncher

    dummy = "tests.supervisor.dummy_child"
    modules = {**CHILDREN, "llm_gateway.control": dummy, "llm_gateway.worker": dummy}
    return run_entry(lambda: run_supervisor(ForkingLauncher(modules), leaving_s=leaving_s))


if __name__ == "__main__":
    sys.exit(main())
