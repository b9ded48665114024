"""Generation of children: control and the workers that were started with the same settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llm_gateway.supervisor.child import Child
from llm_gateway.supervisor.settings_file import SupervisorSettings

CONTROL_MODULE = "llm_gateway.control"
WORKER_MODULE = "llm_gateway.worker"
NUMBERS = range(1, 64)
"""Numbers of workers: the memory that all processes share has a place for each. They suffice for two generations."""


class Generation:
    """Children with the same settings.

    Args:
        settings: number of workers, times of the stop, log.
        settings_file: descriptor of all settings as JSON.
        control: the control process.
        workers: the workers.
    """

    def __init__(
        self, settings: SupervisorSettings, settings_file: int, control: Child, workers: Sequence[Child]
    ) -> None:
        self.settings = settings
        self.settings_file = settings_file
        self.control = control
        self.workers = list(workers)

    @classmethod
    def new(cls, settings: SupervisorSettings, settings_file: int, taken: Collection[int] = ()) -> Generation:
        """Return children that are to be started, beside workers that have the numbers in `taken`."""
        free = [number for number in NUMBERS if number not in taken]
        workers = [Child(f"worker {n}", WORKER_MODULE, settings_file, n) for n in free[: settings.workers]]
        return cls(settings, settings_file, Child("control", CONTROL_MODULE, settings_file), workers)

    @property
    def children(self) -> list[Child]:
        """Control and all workers."""
        return [self.control, *self.workers]

    @property
    def is_ready(self) -> bool:
        """True while all workers are ready, and control is, or waits only for the end of the control before it."""
        return all(worker.is_ready for worker in self.workers) and (self.control.is_prepared or self.control.is_ready)
