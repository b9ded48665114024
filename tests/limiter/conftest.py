"""A limiter a test, by a clock that the test sets."""

from __future__ import annotations

import pytest

from llm_gateway.limiter.memory import MemoryLimiter
from tests.limiter.taking import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> MemoryLimiter:
    return MemoryLimiter(clock)
