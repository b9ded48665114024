"""The contract of a cache."""

from __future__ import annotations

from typing import Protocol


class Cache(Protocol):
    """Bytes under a key, for a time. A cache may forget anything at any moment."""

    async def get(self, key: bytes) -> bytes | None:
        """The bytes kept under `key`, None when there are none or they are too old."""
        ...

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep `value` under `key` for `ttl_s` seconds."""
        ...
