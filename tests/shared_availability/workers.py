"""Workers that share breakers, gates and pauses, as objects of one test process."""

from __future__ import annotations

from typing import NamedTuple

from llm_gateway.domain.catalog import Candidate
from llm_gateway.host_memory import HostMemory, release_place
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability, Wait
from llm_gateway.worker.pipeline.availability.host_states import HostStates
from tests.shared_limiter.processes import Stores
from tests.worker.pipeline.breaking import Clock
from tests.worker.pipeline.fakes import provider

M = Candidate.of(provider("p"), "m1")


class Line(NamedTuple):
    """A logged change."""

    worker: int
    event: str
    provider: str
    model: str


class Host:
    """Workers that share one memory and one clock, and what they log."""

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self.descriptor = descriptor
        self.clock = clock
        self.lines: list[Line] = []

    def worker(self, number: int, stores: Stores | None = None) -> ProviderAvailability:
        memory = HostMemory(self.descriptor)
        place = WorkerPlace(memory, number)
        states = HostStates(memory if stores is None else HostMemory(self.descriptor, stores), place, self.clock)

        def log(event: str, *, provider: str, model: str, **_: object) -> None:
            self.lines.append(Line(number, event, provider, model))

        return ProviderAvailability(self.clock, lambda: 0.5, log=log, states=states)

    def dies(self, number: int) -> None:
        release_place(self.descriptor, number)


def leave(availability: ProviderAvailability, candidate: Candidate = M) -> Permit:
    permit = availability.admit(candidate)
    assert not isinstance(permit, Wait), permit
    return permit


def fail(availability: ProviderAvailability, times: int = 5) -> None:
    for _ in range(times):
        leave(availability).fail("down")


def serve(availability: ProviderAvailability, candidate: Candidate = M) -> None:
    permit = leave(availability, candidate)
    permit.accepted()
    permit.succeed()
