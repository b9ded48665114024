"""The contract of a cache backend: get and set bytes under a key, with a time to live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Cache(Protocol):
    """A store of bytes under opaque keys, with a time to live. It may drop any entry at any time.

    A backend that cannot reach its store returns None from `get` and does nothing in `set`: an exception would fail the
    client's request. Example:

        await cache.set(key, b"an answer", ttl_s=300)
        assert await cache.get(key) in (b"an answer", None)
    """

    @property
    def is_near(self) -> bool:
        """Whether all entries are in the memory of this process, so that looking them up one by one costs nothing."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory of this process that the entries take, in bytes."""
        ...

    def __len__(self) -> int:
        """Return the number of entries in the memory of this process."""
        ...

    async def get(self, key: bytes) -> bytes | None:
        """Return the bytes under `key`; None if there are none or their time is over.

        Called before any provider is tried, once per candidate of the plan until one is found. Not called for requests
        that bypass the cache.
        """
        ...

    async def get_all(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the bytes under each of these keys, as `get` does, in one trip.

        What is under the keys after the first that has an entry may be returned as None.
        """
        ...

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store `value` under `key` for `ttl_s` seconds, in place of an earlier value.

        Called once per complete, cacheable answer, after its usage record is durable and before the answer is sent.
        """
        ...


class NearCache:
    """Base of caches whose entries are all in the memory of this process."""

    is_near = True

    async def get_all(self: Cache, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the bytes under each of these keys; see `Cache.get_all`."""
        return [await self.get(key) for key in keys]
