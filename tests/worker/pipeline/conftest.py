"""One world a test; a clock, a chance, and what is tested by them."""

from __future__ import annotations

import pytest

from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker
from tests.worker.pipeline.breaking import Chance, Clock
from tests.worker.pipeline.fakes import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def luck() -> Chance:
    return Chance()


@pytest.fixture
def breaker(clock: Clock, luck: Chance) -> CircuitBreaker:
    return CircuitBreaker(clock, luck)


@pytest.fixture
def availability(clock: Clock, luck: Chance) -> ProviderAvailability:
    return ProviderAvailability(clock, luck, log=lambda *_, **__: None)
