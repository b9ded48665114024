"""Rate limits: how many requests and tokens a provider may be sent in any 60 seconds.

A backend is a file here that passes the tests of the contract (`base.py`), and a line in `open_limiter`.
"""

from __future__ import annotations

from llm_gateway.limiter.base import Limiter
from llm_gateway.limiter.memory import MemoryLimiter


def open_limiter() -> Limiter:
    """Open the limiter that is configured."""
    return MemoryLimiter()
