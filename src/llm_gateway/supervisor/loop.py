"""Loop of the supervisor: start the children, restart those that end, stop them in order."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence

from llm_gateway.inherited import Inherited
from llm_gateway.supervisor.child import Child
from llm_gateway.supervisor.launcher import Launch, exit_reason
from llm_gateway.supervisor.log_lines import SupervisorLog
from llm_gateway.supervisor.settings_file import SupervisorSettings
from llm_gateway.supervisor.wakeups import Wakeups

CONTROL_MODULE = "llm_gateway.control"
WORKER_MODULE = "llm_gateway.worker"


class Supervisor:
    """Runs one control process and the workers; the package's docstring draws the states.

    Args:
        launch: starts a child.
        settings: number of workers, times of the stop, log.
        settings_file: descriptor of the settings as JSON.
        lock: descriptor whose lock the children keep.
        listener: the TCP socket; it is closed when the stop begins, so that the workers' copies are the last.
        memory: descriptor of the memory that several workers share (host_memory); None for a single one.
    """

    def __init__(
        self,
        launch: Launch,
        settings: SupervisorSettings,
        settings_file: int,
        lock: int,
        listener: socket.socket,
        memory: int | None,
    ) -> None:
        self._launch = launch
        self._settings_file = settings_file
        self._lock = lock
        self._listener = listener
        self._memory = memory
        self._stop_s = settings.stop_seconds
        self._log = SupervisorLog(settings.log_level, settings.log_format)
        self._control = Child("control", CONTROL_MODULE)
        self._workers = [Child(f"worker {n}", WORKER_MODULE, n) for n in range(1, settings.workers + 1)]
        self._children: Sequence[Child] = [self._control, *self._workers]
        self._deadline: float | None = None
        """Time at which children that still run are killed; None until the stop."""
        self._code = 0

    def run(self) -> int:
        """Run the children until a signal or a failed start has stopped them. Returns the exit code."""
        wakeups = Wakeups()
        for child in self._children:
            self._start(child)
        while not self._is_stopping or any(child.pid is not None for child in self._children):
            leashes = {child.leash: child for child in self._children if child.leash is not None}
            numbers, readable = wakeups.wait(leashes, self._seconds_left())
            for descriptor in readable:
                leashes[descriptor].read_leash()
            for number in numbers:
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stop(number)
            self._reap()
            self._act_on_time()
        return self._code

    @property
    def _is_stopping(self) -> bool:
        return self._deadline is not None

    def _start(self, child: Child) -> None:
        inherited = Inherited(settings=self._settings_file, leash=-1, memory=self._memory)
        if child.number is not None:
            inherited.listener, inherited.number = self._listener.fileno(), child.number
        try:
            child.start(self._launch, inherited, self._lock, time.monotonic())
        except OSError as error:
            pause_s = child.schedule_restart(time.monotonic())
            self._log(
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
            for child in self._children:
                if child.pid == pid:
                    self._ended(child, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, pid: int, code: int) -> None:
        was_ready = child.is_ready
        child.ended()
        if self._is_stopping:
            self._ended_at_stop(child, pid, 0 if not was_ready and code == -signal.SIGTERM else code)
        elif not child.was_ready:
            self._ended_at_start(child, pid, code)
        else:
            self._log(
                "process ended, it is started again",
                level="warning",
                process=child.name,
                pid=pid,
                reason=exit_reason(code),
                restart_in_s=child.schedule_restart(time.monotonic()),
            )

    def _ended_at_start(self, child: Child, pid: int, code: int) -> None:
        """End the gateway with the child's exit code; the child has reported the reason, unless a signal ended it."""
        if code < 0:
            self._log("process ended before it was ready", level="error", process=child.name, reason=exit_reason(code))
        self._code = code if code >= 0 else 1
        self._stop(signal.SIGINT)

    def _ended_at_stop(self, child: Child, pid: int, code: int) -> None:
        if code < 0:
            self._log("process ended", level="warning", process=child.name, pid=pid, reason=exit_reason(code))
        self._code = self._code or (code if code >= 0 else 1)
        if child is not self._control and not self._running_workers():
            self._stop_control()

    def _running_workers(self) -> list[Child]:
        return [worker for worker in self._workers if worker.pid is not None]

    def _stop(self, number: int) -> None:
        """Begin to stop; if that has begun, pass the signal on to the children that are stopping."""
        if not self._is_stopping:
            self._deadline = time.monotonic() + self._stop_s
            self._listener.close()
            for child in self._children:
                child.restart_at = None
        for child in self._running_workers() or [self._control]:
            child.signal(number)

    def _stop_control(self) -> None:
        self._deadline = time.monotonic() + self._stop_s
        self._control.signal(signal.SIGTERM)

    def _seconds_left(self) -> float | None:
        """Return the seconds until a restart or the end of the time to stop."""
        times = [child.restart_at for child in self._children if child.restart_at is not None]
        if self._deadline is not None:
            times.append(self._deadline)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _act_on_time(self) -> None:
        """Start the children whose pause is over, and kill those that have not stopped in time."""
        now = time.monotonic()
        for child in self._children:
            if child.restart_at is not None and child.restart_at <= now:
                self._start(child)
        if self._deadline is not None and self._deadline <= now:
            for child in self._running_workers() or [self._control]:
                if child.pid is not None:
                    self._log("process did not stop in time, it is killed", level="error", process=child.name)
                    child.signal(signal.SIGKILL)
            self._deadline = now + self._stop_s
