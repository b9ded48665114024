"""Fixtures of the pipeline's tests: a world, a clock, random numbers, a provider's server, and what they test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.availability.circuit_breaker import CircuitBreaker
from llm_gateway.worker.pipeline.transport import Transport
from tests.worker.pipeline.breaking import Chance, Clock
from tests.worker.pipeline.fakes import World
from tests.worker.pipeline.provider_server import Upstream


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


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(Egress(strict=False), log=lambda *_, **__: None)
    yield made
    await made.close()
