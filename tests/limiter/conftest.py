"""Fixtures of the limiter's tests: a limiter of each backend, with a clock that the test sets."""

from __future__ import annotations

import pytest

from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter
from tests.limiter.taking import Clock

BACKENDS = {"memory": MemoryLimiter}
"""Backends that implement the contract (`limiter/base.py`), by name; add new ones here."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS.values(), ids=list(BACKENDS))
def limiter(request: pytest.FixtureRequest, clock: Clock) -> Limiter:
    opened: Limiter = request.param(clock)
    return opened
