"""Where complete answers are kept, under an opaque key, as bytes.

A backend is a file here that passes the tests of the contract (`base.py`), and a line in `open_cache`.
"""

from __future__ import annotations

from llm_gateway.cache.base import Cache
from llm_gateway.cache.memory import MemoryCache


def open_cache(max_bytes: int) -> Cache:
    """Open the cache that is configured, of at most `max_bytes` bytes."""
    return MemoryCache(max_bytes)
