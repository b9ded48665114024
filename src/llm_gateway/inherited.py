"""Descriptors that a child process inherits from the supervisor, as arguments of its command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

READY = b"ready\n"
"""Line that a child writes to its leash once it works."""


class Inherited(NamedTuple):
    """Numbers of inherited descriptors, and the number of a worker.

    `settings` is a file with the settings as JSON; its offset is shared, so read it with `os.pread`. `leash` is a Unix
    stream socket to the supervisor: the child writes `READY` to it, and its end of file means that the supervisor has
    died. `listener` is the bound TCP socket; `number` is 1 for the first worker; control has neither. `memory` is
    memory shared by all processes.
    """

    settings: int
    leash: int
    listener: int | None = None
    number: int | None = None
    memory: int | None = None

    @property
    def descriptors(self) -> list[int]:
        """All descriptors."""
        found = (self.settings, self.leash, self.listener, self.memory)
        return [descriptor for descriptor in found if descriptor is not None]


def to_arguments(inherited: Inherited) -> list[str]:
    """Return the command line's arguments, such as `--settings 3 --leash 4`."""
    values = inherited._asdict().items()
    return [text for name, value in values if value is not None for text in (f"--{name}", str(value))]


def from_arguments(arguments: Sequence[str]) -> Inherited:
    """Return what `to_arguments` described. Children of this process do not inherit the descriptors in turn.

    Raises:
        ValueError: the arguments are not those of `to_arguments`.
        OSError: a descriptor is not open.
    """
    names = [name.removeprefix("--") for name in arguments[::2]]
    values = dict(zip(names, map(int, arguments[1::2]), strict=True))
    if not {"settings", "leash"} <= values.keys() <= set(Inherited._fields):
        raise ValueError(f"Invalid arguments: {' '.join(arguments)}")
    inherited = Inherited(**values)
    for descriptor in inherited.descriptors:
        os.set_inheritable(descriptor, False)
    return inherited
