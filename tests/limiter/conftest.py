"""Fixtures of the limiter's tests: a limiter of each backend, with a clock that the test sets."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TypeAlias

import pytest

from llm_gateway.host_memory import HostMemory, create
from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.limiter.shared import SharedLimiter
from tests.limiter.taking import Clock

Backend: TypeAlias = Callable[[Clock], Limiter]


def open_shared(clock: Clock) -> SharedLimiter:
    """Open new shared memory as the process number 3. Its descriptor is closed with the limiter."""
    descriptor = create()
    limiter = SharedLimiter(HostMemory(descriptor), 3, clock)
    weakref.finalize(limiter, os.close, descriptor)
    return limiter


BACKENDS: dict[str, Backend] = {"memory": MemoryLimiter, "shared": open_shared}
"""Backends that implement the contract (`limiter/base.py`), by name; add new ones here."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session", params=BACKENDS.values(), ids=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Return a function that opens a limiter, for tests that need one for each example."""
    opened: Backend = request.param
    return opened


@pytest.fixture
def limiter(backend: Backend, clock: Clock) -> Limiter:
    return backend(clock)
