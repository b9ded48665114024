"""One world a test; a clock, a chance, and what is tested by them."""

from __future__ import annotations

import pytest

from llm_gateway.worker.pipeline.health import Health
from llm_gateway.worker.pipeline.health.circuit_breaker import CircuitBreaker
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
def health(clock: Clock, luck: Chance) -> Health:
    return Health(clock, luck, log=lambda *_, **__: None)
