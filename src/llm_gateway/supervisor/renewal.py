"""Replace the supervisor's code in the running process: same process id, descriptors and children.

rehearsing ── a new process has restored the state ──▶ execve ──▶ the new code restores it, and goes on
    │
    └── it cannot, or takes too long ──▶ the old code goes on
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

from llm_gateway.inherited import unnamed_file
from llm_gateway.supervisor.launcher import exit_reason, failure_reason, keep_descriptors_private, spawn
from llm_gateway.supervisor.saved_state import State
from llm_gateway.supervisor.settings_file import store_settings

REHEARSE = "--rehearse"
"""Argument of a process that restores the state and ends at once: the number of the descriptor with the document."""
RESUME = "--resume"
"""Argument of the supervisor's new code: the same number."""


class Rehearsal:
    """A process that tries whether the new code can take over. `problem` is None until it has ended.

    Args:
        command: program and arguments of the supervisor.
        state: what the new code must be able to restore; the process inherits its descriptors.
        kill_at: time at which the process must be killed (`kill`).

    Raises:
        OSError: the system cannot start a process.
    """

    def __init__(self, command: Sequence[str], state: State, *, kill_at: float) -> None:
        self.problem: str | None = None
        self.kill_at = kill_at
        self._errors = unnamed_file()
        document = store_settings(state.save())
        inherited = {number: number for number in (*state.descriptors, document)}
        try:
            self.pid = spawn([*command, REHEARSE, str(document)], {**inherited, 2: self._errors})
        except OSError:
            os.close(self._errors)
            raise
        finally:
            os.close(document)

    def ended(self, code: int) -> None:
        """Note that the process has ended with this exit code."""
        errors = os.pread(self._errors, os.fstat(self._errors).st_size, 0).decode("utf-8", "replace")
        os.close(self._errors)
        if code:
            self.problem = f"The supervisor's new code cannot start: {failure_reason(errors) or exit_reason(code)}"
        else:
            self.problem = ""

    def kill(self) -> None:
        """End the process, because it takes too long or the gateway stops."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def become_new_code(command: Sequence[str], state: State) -> OSError:
    """Replace this process's program by the new code. Signals must be blocked: they wait until it handles them.

    Returns only if the system refuses, with the reason; the process is as before then.
    """
    document = store_settings(state.save())
    for descriptor in (*state.descriptors, document):
        os.set_inheritable(descriptor, True)
    try:
        os.execve(command[0], [*command, RESUME, str(document)], os.environ)  # noqa: S606 - our own interpreter
    except OSError as error:
        os.close(document)
        keep_descriptors_private()
        return error
