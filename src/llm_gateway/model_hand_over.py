"""Hand the embedded model's process over to the next control process: its description, and a pipe that keeps it alive.

On Linux the supervisor makes both, and each control process inherits them. The pipe's read end is the model's standard
input. Nothing is written to it: the model ends once the supervisor and all control processes, which hold the other end,
have ended.
"""

from __future__ import annotations

import json
import os

from llm_gateway.inherited import unnamed_file

TYPE_CHECKING = False  # as typing's, which takes half a megabyte of the supervisor's memory to import
if TYPE_CHECKING:
    from typing import Any

SIZE = 4096
"""Bytes of the description: one page, which is written as a whole or not at all, also if the process is killed."""


class ModelHandOver:
    """Descriptors that a process has made, or inherited.

    Attributes:
        file: unnamed file with the description.
        alive: write end of the pipe.
    """

    def __init__(self, file: int, alive: int, stdin: int | None = None) -> None:
        self.file = file
        self.alive = alive
        self._stdin = stdin

    @classmethod
    def create(cls) -> ModelHandOver:
        """Make the file and the pipe.

        Raises:
            OSError: the system has no descriptors left.
        """
        stdin, alive = os.pipe()
        if hasattr(os, "memfd_create"):  # Linux, where `open_stdin` does not need it
            os.close(stdin)
            return cls(unnamed_file(), alive)
        return cls(unnamed_file(), alive, stdin)

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that a control process inherits."""
        return [self.file, self.alive]

    def open_stdin(self) -> int:
        """Return a new descriptor of the pipe's read end.

        Raises:
            OSError: the system has no descriptors left, or no /proc.
        """
        # Linux: opening a pipe by its descriptor's link opens the end that the mode says (proc(5)).
        return os.dup(self._stdin) if self._stdin is not None else os.open(f"/proc/self/fd/{self.alive}", os.O_RDONLY)

    def write(self, description: dict[str, Any]) -> None:
        """Store the description of the model that runs; an empty one if none does."""
        os.pwrite(self.file, json.dumps(description).encode().ljust(SIZE), 0)

    def read(self) -> dict[str, Any]:
        """Return the description; empty if there is none."""
        found: dict[str, Any] = read_description(self.file)
        return found


def read_description(file: int) -> dict[str, Any]:
    """Return the description in the file; empty if there is none."""
    found = json.loads(os.pread(file, SIZE, 0) or b"{}")
    return found if isinstance(found, dict) else {}
