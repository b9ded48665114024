"""A limiter a test, by a clock that the test sets."""

from __future__ import annotations

import pytest

from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter
from tests.limiter.taking import Clock

BACKENDS = {"memory": MemoryLimiter}
"""What keeps to the contract (`limiter/base.py`), by name; a new backend is one more."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS.values(), ids=list(BACKENDS))
def limiter(request: pytest.FixtureRequest, clock: Clock) -> Limiter:
    opened: Limiter = request.param(clock)
    return opened
