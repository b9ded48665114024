"""Descriptors and variables that a process inherits from its parent, and the lines on its leash."""

from __future__ import annotations

import os
from collections.abc import Sequence

OPTIONS = "_LLM_GATEWAY_OPTIONS"
"""Environment variable with the names of the settings that were given as options of `serve`, separated by commas. Their
values are in the variables of the settings."""
READY = b"ready\n"
"""Line that a child writes to its leash once it works."""
PREPARED = b"prepared\n"
"""Line that a control process writes to its leash once it waits only for the end of the one before it."""
RETIRE = b"retire\n"
"""Line that the supervisor writes to the leash of a worker whose successors accept connections on the same socket."""

STOP = b"stop\n"
"""Line that the supervisor writes to the leash before a signal that stops the whole gateway. A worker that is signalled
without it ends alone, and leaves the socket, which others use, as it is."""

DROPPED = b"dropped\n"
"""Line that the supervisor writes to the leash of control for each of its own log lines that could not be written."""


class Inherited:
    """Numbers of inherited descriptors, and the number of a worker.

    It is no `NamedTuple`, since the module typing needs half a megabyte of the supervisor's memory.

    Attributes:
        settings: file with the settings as JSON; its offset is shared, so read it with `os.pread`.
        leash: Unix stream socket to the supervisor: the child writes `READY` to it; its end of file means that the
            supervisor has died.
        listener: bound TCP socket of a worker, or of control's admin port; None for control without one.
        number: number of a worker, from 1; None for control.
        memory: memory shared by all processes.
        model, model_alive: descriptors of a `ModelHandOver`; None for a worker.
    """

    def __init__(
        self,
        *,
        settings: int,
        leash: int,
        listener: int | None = None,
        number: int | None = None,
        memory: int | None = None,
        model: int | None = None,
        model_alive: int | None = None,
    ) -> None:
        self.settings = settings
        self.leash = leash
        self.listener = listener
        self.number = number
        self.memory = memory
        self.model = model
        self.model_alive = model_alive

    @property
    def descriptors(self) -> list[int]:
        """All descriptors."""
        found = (self.settings, self.leash, self.listener, self.memory, self.model, self.model_alive)
        return [descriptor for descriptor in found if descriptor is not None]


def to_arguments(inherited: Inherited) -> list[str]:
    """Return the command line's arguments, such as `--settings 3 --leash 4`."""
    values = vars(inherited).items()
    return [text for name, value in values if value is not None for text in (f"--{name}", str(value))]


def from_arguments(arguments: Sequence[str]) -> Inherited:
    """Return what `to_arguments` described. Children of this process do not inherit the descriptors in turn.

    Raises:
        TypeError: an argument is missing or unknown.
        ValueError: an argument has no number.
        OSError: a descriptor is not open.
    """
    names = [name.removeprefix("--") for name in arguments[::2]]
    inherited = Inherited(**dict(zip(names, map(int, arguments[1::2]), strict=True)))
    for descriptor in inherited.descriptors:
        os.set_inheritable(descriptor, False)
    return inherited


def unnamed_file() -> int:
    """Return the descriptor of an empty file that vanishes with its last descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("llm-gateway")
    from tempfile import mkstemp  # noqa: PLC0415 - needs memory, and Linux needs it not

    descriptor, path = mkstemp()
    os.unlink(path)  # noqa: PTH108 - the supervisor, which must stay small, does not import pathlib
    return descriptor
