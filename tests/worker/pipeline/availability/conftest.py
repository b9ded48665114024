"""The availability in both its forms: in a worker's own memory, and in the memory that all workers share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llm_gateway.host_memory import HostMemory, create
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.availability.host_states import HostStates
from tests.worker.pipeline.breaking import Chance, Clock


@pytest.fixture
def descriptor() -> Iterator[int]:
    opened = create()
    yield opened
    os.close(opened)


@pytest.fixture(params=["own memory", "shared memory"])
def states(request: pytest.FixtureRequest, clock: Clock) -> HostStates | None:
    if request.param == "own memory":
        return None
    memory = HostMemory(request.getfixturevalue("descriptor"))
    return HostStates(memory, WorkerPlace(memory, 1), clock)


@pytest.fixture
def availability(clock: Clock, luck: Chance, states: HostStates | None) -> ProviderAvailability:
    return ProviderAvailability(clock, luck, log=lambda *_, **__: None, states=states)
