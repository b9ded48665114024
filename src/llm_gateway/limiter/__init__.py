"""Rate limiter: bound the requests and tokens sent to each provider in any 60 seconds.

To add a backend, write a module that implements the contract (`base.py`), run the tests in tests/limiter against it,
and return it from `open_limiter`. `window.py`, `durations.py` and `reported.py` hold what counts, for any backend.
"""

from __future__ import annotations

from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter


def open_limiter() -> Limiter:
    """Open the configured limiter."""
    return MemoryLimiter()
