"""Answer cache: keep complete answers, as bytes under opaque keys, for a limited time.

To add a backend, write a module that implements the contract (`base.py`), run tests/cache/test_contract.py against it,
and return it from `open_cache`.
"""

from __future__ import annotations

from llm_gateway.cache.base import Cache
from llm_gateway.cache.memory import MemoryCache


def open_cache(max_bytes: int) -> Cache:
    """Open the configured cache, which holds at most `max_bytes`."""
    return MemoryCache(max_bytes)
