"""Replace all children while the gateway serves: the new ones start beside the old ones, then take over.

    reading ── valid settings ──▶ starting ── all ready ──▶ retiring the old ── all ended, control ready ──▶ over
       │                             │
       │                             └── one ended, or `READY_S` passed ──▶ retiring the new ── all ended ──▶ over
       └── settings refused ──▶ over

The new control process starts at the same time as the new workers, but uses the database only after the old one has
ended, which is asked to when everything else is ready. Workers of both generations use whichever there is.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable

from llm_gateway.supervisor.child import Child
from llm_gateway.supervisor.generation import Generation
from llm_gateway.supervisor.launcher import Launch, exit_reason
from llm_gateway.supervisor.log_lines import SupervisorLog
from llm_gateway.supervisor.settings_file import SettingsReading, SettingsRefused, SupervisorSettings, store_settings

READY_S = 30.0
"""Seconds in which the settings must be read and the new children ready."""


class Roll:
    """One replacement. `problem` says at its end why it failed; it is empty if it did not.

    Args:
        launch: starts a child.
        current: the children that serve; after the take-over `current` is the new ones.
        start: starts a child of the new generation.
        log: takes a line for each step.
        leaving_s: see `SupervisorSettings`.
        now: the time, by the clock of `act`.
    """

    def __init__(
        self,
        launch: Launch,
        current: Generation,
        start: Callable[[Child], None],
        log: SupervisorLog,
        *,
        leaving_s: float,
        now: float,
    ) -> None:
        self.current = current
        self.settings = [current.settings]
        """The settings of all children, of one generation or two."""
        self.problem = ""
        self._start = start
        self._log = log
        self._leaving_s = leaving_s
        self._deadline = now + READY_S
        self._new: Generation | None = None
        self._retiring: list[Child] = []
        self._unused_file: int | None = None
        self._reading: SettingsReading | None = None
        try:
            self._reading = SettingsReading(launch)
        except OSError as error:
            self._refuse(f"The settings cannot be read: {error.strerror or error}.")

    @property
    def children(self) -> list[Child]:
        """Children that are not part of `current`."""
        return [*(self._new.children if self._new is not None else ()), *self._retiring]

    @property
    def is_over(self) -> bool:
        """True once there is one generation, and nothing is left to wait for."""
        if self._reading is not None or self._new is not None or self._retiring:
            return False
        return bool(self.problem) or self.current.control.is_ready

    @property
    def next_time(self) -> float:
        """The time at which `act` must be called at the latest; 0 if it is over, infinite if nothing is due."""
        if self.is_over:
            return 0.0
        return min(self._deadline, *(child.kill_at for child in self._retiring), math.inf)

    def process_ended(self, pid: int, code: int) -> None:
        """Go on if the process that reads the settings has ended."""
        reading = self._reading
        if reading is None or reading.pid != pid:
            return
        self._reading = None
        try:
            self._start_new(reading.result(code))
        except SettingsRefused as refused:
            self._refuse(refused.reason)
        finally:
            reading.close()

    def child_ended(self, child: Child, pid: int, code: int, now: float) -> bool:
        """Note the end of a child. Returns False if it is one of `current`."""
        if child in self._retiring:
            self._retiring.remove(child)
            if code and not (self.problem and code == -signal.SIGTERM):
                self._log(
                    "replaced process ended", level="warning", process=child.name, pid=pid, reason=exit_reason(code)
                )
            return True
        if self._new is not None and child in self._new.children:
            reason = " Standard error says why." if code > 0 else ""
            self._give_up(f"The new {child.name} ended before all were ready ({exit_reason(code)}).{reason}", now)
            return True
        return False

    def act(self, now: float) -> None:
        """Take over if the new children are ready; end what takes too long."""
        if self._new is not None and self._new.is_ready:
            self._take_over(self._new, now)
        if now >= self._deadline:
            self._expire(now)
        for child in self._retiring:
            if child.kill_at <= now:
                self._log("process did not stop in time, it is killed", level="error", process=child.name)
                child.signal(signal.SIGKILL)
                child.kill_at = math.inf

    def close(self) -> None:
        """Close the settings that nobody uses any more. Call it once, when the roll is over."""
        if self._unused_file is not None:
            os.close(self._unused_file)

    def stop_reading(self) -> None:
        """End the process that reads the settings, because the gateway stops."""
        if self._reading is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._reading.pid, signal.SIGKILL)

    def _start_new(self, document: bytes) -> None:
        """Start the new generation.

        Raises:
            SettingsRefused: a setting has changed that cannot change while the gateway runs.
        """
        settings = SupervisorSettings(document, self._leaving_s)
        before = self.current.settings.fixed
        changed = [f"LLM_GATEWAY_{name.upper()}" for name, value in settings.fixed.items() if value != before[name]]
        if changed:
            raise SettingsRefused(
                1,
                f"{', '.join(changed)} cannot change while the gateway runs: restart it, or restore the former value.",
            )
        taken = [worker.number for worker in self.current.workers if worker.number is not None]
        self._new = new = Generation.new(settings, store_settings(document), taken)
        self.settings.append(settings)
        for child in new.children:
            self._start(child)

    def _take_over(self, new: Generation, now: float) -> None:
        """Make the new children the current ones, and retire the old ones."""
        old, self.current, self._new = self.current, new, None
        self._unused_file = old.settings_file
        self._retire(old, now)
        self._deadline = max(child.kill_at for child in old.children) + READY_S
        self._log("new processes serve, the old ones end")

    def _expire(self, now: float) -> None:
        self._deadline = math.inf
        if self._reading is not None:
            self._log("settings cannot be read in time", level="warning", after_s=READY_S)
            self.stop_reading()
        elif self._new is not None:
            waiting = ", ".join(c.name for c in self._new.children if not (c.is_ready or c.is_prepared))
            self._give_up(f"The new processes were not ready within {READY_S:g} seconds: {waiting}.", now)
        elif not self.current.control.is_ready and not self.problem:
            self._refuse("The new control process does not become ready: see the log. Calls are served.", replaced=True)

    def _give_up(self, problem: str, now: float) -> None:
        """Go on with the old children, and retire the new ones."""
        new, self._new = self._new, None
        self._refuse(problem)
        if new is not None:
            self._unused_file = new.settings_file
            self._retire(new, now)

    def _retire(self, generation: Generation, now: float) -> None:
        kill_at = now + generation.settings.stop_seconds
        for child in generation.children:
            child.retire(kill_at)
        self._retiring = [child for child in generation.children if child.pid is not None]

    def _refuse(self, problem: str, *, replaced: bool = False) -> None:
        self.problem = problem
        self._deadline = math.inf
        event = "reload failed" if replaced else "reload refused, nothing is replaced"
        self._log(event, level="error", problem=problem)
