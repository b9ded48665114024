"""Start child processes that inherit only the descriptors they need."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

Launch = Callable[[str, Sequence[str], Mapping[int, int]], int]
"""Start `main` of a module with these arguments, in a process group of its own, and return the process id.

Beside the standard descriptors the child has only those given (number in the child → number here). No signal is
blocked, and all but the ignored ones have their default effect.
"""
CAUGHT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that the supervisor, or Python itself, does not leave at their default effect."""


def spawn_module(module: str, arguments: Sequence[str], descriptors: Mapping[int, int]) -> int:
    """Start a module in a new interpreter; the contract is `Launch`."""
    # -P: a file in the working directory must not be imported in place of a module.
    return spawn([sys.executable, "-P", "-m", module, *arguments], descriptors)


def spawn(command: Sequence[str], descriptors: Mapping[int, int]) -> int:
    """Start a program as `Launch` describes. All other descriptors of this process must be close-on-exec."""
    return os.posix_spawn(
        command[0],
        list(command),
        os.environ,
        # Duplicating a descriptor onto itself clears its close-on-exec flag (posix_spawn_file_actions_adddup2(3p)).
        file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()],
        setpgroup=0,
        setsigmask=(),
        setsigdef=CAUGHT_SIGNALS,
    )


def keep_descriptors_private() -> None:
    """Mark all but the standard descriptors close-on-exec: the program that started this one may have left some."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                if int(name) > 2:
                    with contextlib.suppress(OSError):  # the descriptor that listed the folder
                        os.set_inheritable(int(name), False)
            return


def failure_reason(errors: str) -> str:
    """Return in one line why a program of this package failed, from what it wrote to stderr; "" if it wrote nothing.

    A traceback is shortened to its last line, and the place that it names last.
    """
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    places = [line.removeprefix("File ").partition(", in ")[0] for line in lines if line.startswith("File ")]
    if places:
        return f"{lines[-1]} ({places[-1]})."
    return " ".join(" ".join(lines).split()).removeprefix("llm-gateway: ")


def exit_reason(code: int) -> str:
    """Return in words how a process ended; `code` is its exit code, or the negative number of a signal."""
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"signal {names.get(-code, -code)}"
