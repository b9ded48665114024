"""Fixtures for tests over a real server: the server of this run, and the limiter of a host that is alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from llm_gateway.limiter.base import Limiter
from tests.limiter.conftest import Backend
from tests.limiter.taking import Clock
from tests.redis.hosts import Hosts, open_redis
from tests.redis_server import RedisServer, running


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def hosts(redis_server: RedisServer) -> Iterator[Hosts]:
    opened = Hosts(redis_server)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def backend(hosts: Hosts) -> Backend:
    """Return a function that opens a limiter."""
    return partial(open_redis, hosts, hosts.client())


@pytest.fixture
def limiter(backend: Backend, clock: Clock) -> Limiter:
    return backend(clock)
