"""Loop of the supervisor: start the children, restart those that end, replace them at SIGHUP, stop them in order."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence

from llm_gateway.host_memory import release_place
from llm_gateway.inherited import Inherited
from llm_gateway.supervisor.child import Child
from llm_gateway.supervisor.launcher import Launch, exit_reason
from llm_gateway.supervisor.log_lines import SupervisorLog
from llm_gateway.supervisor.renewal import Rehearsal, become_new_code
from llm_gateway.supervisor.rolling_restart import READY_S, Roll
from llm_gateway.supervisor.saved_state import State
from llm_gateway.supervisor.settings_file import SupervisorSettings
from llm_gateway.supervisor.wakeups import Wakeups


class Supervisor:
    """Runs one control process and the workers; the package's docstring draws the states.

    A SIGHUP replaces them (`Roll`), after the supervisor's own code (`renewal.py`). One that arrives too early, or
    during a replacement, is remembered once.

    Args:
        launch: starts a child.
        state: what is held for the children. The listeners are closed when the stop begins, so that the children's
            copies are the last.
        command: program and arguments of this process, see `run_supervisor`.
        is_resumed: this code has just taken over, and the replacement goes on with the children.
    """

    def __init__(self, launch: Launch, state: State, *, command: Sequence[str] = (), is_resumed: bool = False) -> None:
        settings = state.current.settings
        self.log = SupervisorLog(settings.log_level, settings.log_format)
        self._launch = launch
        self._state = state
        self._command = command
        self._is_resumed = is_resumed
        self._leaving_s = settings.leaving_seconds
        self._has_started = is_resumed
        """Whether all children were ready once."""
        self._rehearsal: Rehearsal | None = None
        self._roll: Roll | None = None
        self._deadline: float | None = None
        """Time at which children that still run are killed; None until the stop."""
        self._stopped_by = math.inf
        """Time at which control, the last one, is killed."""
        self._code = 0

    def run(self) -> int:
        """Run the children until a signal or a failed start has stopped them. Returns the exit code."""
        wakeups = Wakeups()
        if self._is_resumed:
            self._reap()
            self._begin_roll(time.monotonic())
        else:
            for child in self._children:
                self._start(child)
        while not self._is_stopping or any(child.pid is not None for child in self._children):
            leashes = {child.leash: child for child in self._children if child.leash is not None}
            numbers, readable = wakeups.wait(leashes, self._seconds_left())
            for descriptor in readable:
                leashes[descriptor].read_leash()
            self._take(numbers)
            self._reap()
            self._act_on_time()
            if not self._is_stopping:
                self._replace(wakeups)
            if self.log.dropped:
                self._state.current.control.dropped(self.log)
        return self._code

    def _take(self, numbers: Iterable[int]) -> None:
        """Act on signals that have arrived."""
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(number)
            elif number == signal.SIGHUP:
                self._state.is_roll_due = True

    @property
    def _children(self) -> list[Child]:
        return [*self._state.current.children, *(self._roll.children if self._roll is not None else ())]

    @property
    def _is_stopping(self) -> bool:
        return self._deadline is not None

    def _start(self, child: Child) -> None:
        inherited = Inherited(settings=child.settings_file, leash=-1, memory=self._state.memory)
        if child.number is not None:
            inherited.listener, inherited.number = self._state.listener.fileno(), child.number
        else:
            inherited.model, inherited.model_alive = self._state.model.descriptors
            if self._state.admin is not None:
                inherited.listener = self._state.admin.fileno()
        try:
            child.start(self._launch, inherited, self._state.data_dir.shared_lock, time.monotonic())
        except OSError as error:
            pause_s = child.schedule_restart(time.monotonic())
            self.log(
                "process cannot be started",
                level="error",
                process=child.name,
                problem=error.strerror or str(error),
                restart_in_s=pause_s,
            )

    def _reap(self) -> None:
        """Collect the ended children, and processes that the system assigned to this one (as process 1 has to)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status)
            if self._rehearsal is not None and self._rehearsal.pid == pid:
                self._rehearsal.ended(code)
            if self._roll is not None and not self._is_stopping:
                self._roll.process_ended(pid, code)
            for child in self._children:
                if child.pid == pid:
                    self._release_place(child)
                    self._ended(child, pid, code)

    def _release_place(self, child: Child) -> None:
        """Clear what an ended worker held of the host's limits, before another one gets its number."""
        if self._state.memory is not None and child.number is not None:
            with contextlib.suppress(OSError):  # no memory is left; the next worker with this number clears it
                release_place(self._state.memory, child.number)

    def _ended(self, child: Child, pid: int, code: int) -> None:
        was_ready = child.is_ready
        child.ended()
        if self._is_stopping:
            self._ended_at_stop(child, pid, 0 if not was_ready and code == -signal.SIGTERM else code)
        elif self._roll is not None and self._roll.child_ended(child, pid, code, time.monotonic()):
            return
        elif not child.was_ready and not self._has_started:
            self._ended_at_start(child, pid, code)
        else:
            self.log(
                "process ended, it is started again",
                level="warning",
                process=child.name,
                pid=pid,
                reason=exit_reason(code),
                restart_in_s=child.schedule_restart(time.monotonic()),
            )

    def _ended_at_start(self, child: Child, pid: int, code: int) -> None:
        """End the gateway with the child's exit code. The child has reported the reason if the code is an error."""
        if code <= 0:
            self.log("process ended before it was ready", level="error", process=child.name, reason=exit_reason(code))
        self._code = code if code > 0 else 1
        self._stop(signal.SIGINT)

    def _ended_at_stop(self, child: Child, pid: int, code: int) -> None:
        if code < 0:
            self.log("process ended", level="warning", process=child.name, pid=pid, reason=exit_reason(code))
        self._code = self._code or (code if code >= 0 else 1)
        if child.number is not None and not self._running_workers():
            self._stop_control()

    def _running_workers(self) -> list[Child]:
        return [child for child in self._children if child.pid is not None and child.number is not None]

    def _stopping_children(self) -> list[Child]:
        """Return the running workers, and control once there are none."""
        return self._running_workers() or [child for child in self._children if child.pid is not None]

    def _stop(self, number: int) -> None:
        """Begin to stop; if that has begun, pass the signal on to the children that are stopping."""
        is_first = not self._is_stopping
        if is_first:
            now = time.monotonic()
            self._deadline = now + self._longest(lambda settings: settings.workers_stop_seconds)
            self._stopped_by = now + self._longest(lambda settings: settings.whole_stop_seconds)
            self._state.close_listeners()
            if self._roll is not None:
                self._roll.stop_reading()
            if self._rehearsal is not None:
                self._rehearsal.kill()
            for child in self._children:
                child.restart_at = None
        for child in self._stopping_children():
            if not (is_first and child.is_retiring):  # it stops already, and a second signal would make it hurry
                child.stop(number)

    @property
    def _longest_stop_s(self) -> float:
        return self._longest(lambda settings: settings.stop_seconds)

    def _longest(self, seconds: Callable[[SupervisorSettings], float]) -> float:
        """Return the longest of a time in the settings of all children, which are of two generations in a replacement.

        None of the settings has all the longest times: of two, one may accept for longer and the other drain.
        """
        settings = [self._state.current.settings] if self._roll is None else self._roll.settings
        return max(map(seconds, settings))

    def _stop_control(self) -> None:
        self._deadline = min(time.monotonic() + self._longest_stop_s, self._stopped_by)
        for child in self._stopping_children():
            if not child.is_retiring:
                child.signal(signal.SIGTERM)

    def _replace(self, wakeups: Wakeups) -> None:
        """Begin a replacement that is due, or go on with the one under way."""
        now, state = time.monotonic(), self._state
        self._has_started = self._has_started or all(child.was_ready for child in state.current.children)
        if self._rehearsal is not None and self._rehearsal.problem is not None:
            self._renew(self._rehearsal.problem, wakeups)
        if self._roll is not None:
            self._go_on(self._roll, now)
        if self._roll is None and self._rehearsal is None and state.is_roll_due and self._has_started:
            state.is_roll_due = False
            state.rolls += 1
            state.data_dir.write_reloads(state.rolls, state.rolls - 1)
            self.log("reloading")
            if self._command:
                self._rehearse(now)
            else:
                self._begin_roll(now)

    def _rehearse(self, now: float) -> None:
        """Try whether the supervisor's code on disk can take over."""
        try:
            self._rehearsal = Rehearsal(self._command, self._state, kill_at=now + READY_S)
        except OSError as error:
            self._refuse(f"The supervisor's new code cannot be started: {error.strerror or error}.")

    def _renew(self, problem: str, wakeups: Wakeups) -> None:
        """Let the supervisor's new code take over, unless there is a problem with it. Returns only in that case."""
        self._rehearsal = None
        if not problem:
            self._take(wakeups.block())
            if not self._is_stopping:
                error = become_new_code(self._command, self._state)
                problem = f"The supervisor's new code cannot be started: {error.strerror or error}."
            wakeups.unblock()
        if not self._is_stopping:
            self._refuse(problem)

    def _refuse(self, problem: str) -> None:
        self.log("reload refused, nothing is replaced", level="error", problem=problem)
        self._state.data_dir.write_reloads(self._state.rolls, self._state.rolls, problem)

    def _begin_roll(self, now: float) -> None:
        self._roll = Roll(self._launch, self._state.current, self._start, self.log, leaving_s=self._leaving_s, now=now)

    def _go_on(self, roll: Roll, now: float) -> None:
        roll.act(now)
        if self._state.current is not roll.current:
            self._state.current = roll.current
        if roll.is_over:
            roll.close()
            self._roll = None
            self.log.configure(self._state.current.settings.log_level, self._state.current.settings.log_format)
            self._state.data_dir.write_reloads(self._state.rolls, self._state.rolls, roll.problem)
            if not roll.problem:
                self.log("reloaded")

    def _seconds_left(self) -> float | None:
        """Return the seconds until a restart, the next step of a replacement, or the end of the time to stop."""
        times = [child.restart_at for child in self._children if child.restart_at is not None]
        if self._deadline is not None:
            times.append(self._deadline)
        elif self._rehearsal is not None and self._rehearsal.kill_at < math.inf:
            times.append(self._rehearsal.kill_at)
        elif self._roll is not None and self._roll.next_time < math.inf:
            times.append(self._roll.next_time)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _act_on_time(self) -> None:
        """Start the children whose pause is over, and kill those that have not stopped in time."""
        now = time.monotonic()
        for child in self._children:
            if child.restart_at is not None and child.restart_at <= now:
                self._start(child)
        if self._rehearsal is not None and self._rehearsal.kill_at <= now:
            self._rehearsal.kill()
            self._rehearsal.kill_at = math.inf
        if self._deadline is not None and self._deadline <= now:
            for child in self._stopping_children():
                self.log("process did not stop in time, it is killed", level="error", process=child.name)
                child.signal(signal.SIGKILL)
            self._deadline = now + self._longest_stop_s
