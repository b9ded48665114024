"""Run jobs of a load generator, and measure a target's CPU time and latency meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import msgspec

from benchmarks.findings import Window
from benchmarks.jobs import Job, Load
from benchmarks.ledger import Ledger, NoBooks
from benchmarks.machine import Cores, ProcessTree

NUMBERS_PER_JOB = 10**9


class Generator(Protocol):
    """A load generator: `run` sends the requests of a job and returns the result."""

    name: str

    def run(self, job: Job) -> Load: ...


class Meter:
    """Runner of jobs: gives all requests of a run different numbers, and collects failures in `failures`."""

    def __init__(self, generator: Generator, cores: Cores, connections: int, say: Callable[[str], None]) -> None:
        self.failures: list[str] = []
        self._generator = generator
        self._cores = cores
        self._connections = connections
        self._say = say
        self._jobs = 0

    def load(self, job: Job, *, seconds: float, at_least: int = 0, connections: int = 0) -> Load:
        """Run a job with new request numbers."""
        self._jobs += 1
        load = self._generator.run(
            msgspec.structs.replace(
                job,
                seconds=seconds,
                at_least=at_least,
                connections=connections or self._connections,
                first=self._jobs * NUMBERS_PER_JOB,
            )
        )
        if load.failed or not load.requests:
            self.failures.append(f"{load.failed:,} of {load.requests:,} to {job.path}: {load.failure!r}")
            self._say(f"FAILED: {self.failures[-1]}")
        return load

    def window(self, job: Job, tree: ProcessTree, books: Ledger | NoBooks, seconds: float) -> Window:
        """Run a job and measure the target. CPU time is read once all its requests are in the database."""
        before, core_before = tree.cpu_seconds(), self._cores.measured_seconds()
        load = self.load(job, seconds=seconds)
        used, core_used = tree.cpu_seconds() - before, self._cores.measured_seconds() - core_before
        at = perf_counter()
        books.add(load)
        books.settle()
        late = perf_counter() - at
        return Window(
            cpu_us=(tree.cpu_seconds() - before) / max(1, load.requests) * 1e6,
            per_second=load.requests / load.seconds,
            p50_ms=load.p50_us / 1000,
            p99_ms=load.p99_us / 1000,
            busy=used / load.seconds,
            others=max(0.0, core_used - used) / load.seconds,
            late=late,
        )
