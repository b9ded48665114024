"""Redis in a worker: the connection, the limits and the cache of several hosts over it, and what it measures."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llm_gateway import __version__
from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge
from llm_gateway.errors import ConfigurationError
from llm_gateway.limiter.redis import RedisLimiter
from llm_gateway.limiter.redis_membership import HostsMemory, RedisHost, only_this_host
from llm_gateway.redis_client.address import RedisAddress
from llm_gateway.redis_client.client import RedisClient

if TYPE_CHECKING:
    from llm_gateway.cache.redis import RedisCache
    from llm_gateway.limiter.base import Limiter

Log: TypeAlias = Callable[..., None]

KEY_FILE = "encryption.key"
"""File in the data directory with the encryption key of a gateway that has none in its settings."""
HOST_FILE = "redis-host.id"
"""File in the data directory with the random part of this host's id in Redis."""
HOSTS_FILE = "hosts.seen"
"""File in the data directory with the number of hosts that was seen last."""
FIRST_S = 1.0
"""Seconds that the start of a worker waits for the first connection; without one it begins alone."""


class SharedRedis:
    """The connection of one worker to the Redis that all hosts share. `number` is the worker's.

    `hosts` returns the number of living hosts, as far as others than Redis know it.
    """

    def __init__(
        self,
        address: RedisAddress,
        data_dir: Path,
        number: int,
        log: Log,
        hosts: Callable[[], int] = only_this_host,
        *,
        name: str | None = None,
    ) -> None:
        """Read what the data directory keeps. A host whose directory does not last is known by its `name`."""
        self._number = str(number)
        self._data_dir = data_dir
        self._client = RedisClient(address, log)
        member, memory = (
            f"{host_id(data_dir) if name is None else id_of_name(name)}/{number}",
            HostsMemory(data_dir / HOSTS_FILE),
        )
        self._host = RedisHost(self._client, member, log, hosts=hosts, memory=memory)

    async def open(self, stack: AsyncExitStack) -> None:
        """Connect, and begin to send heartbeats. The stack ends both."""
        self._client.start()
        stack.push_async_callback(self._client.close)
        if await self._client.connected(FIRST_S):
            await self._host.step()
        self._host.start()
        stack.push_async_callback(self._host.close)

    def is_up(self) -> bool:
        """Return whether Redis answers."""
        return self._client.is_up

    def limiters(self, providers: Limiter, keys: Limiter) -> tuple[Limiter, Limiter]:
        """Return the limiters of providers and of service keys over all hosts, given those of this host."""
        return RedisLimiter(self._host, providers, prefix="p"), RedisLimiter(self._host, keys, prefix="k")

    def cache(self, max_bytes: int, encryption_keys: str | None) -> RedisCache:
        """Return the cache of all hosts that have the same first encryption key, behind `max_bytes` in memory.

        Without keys in the settings, it is the one in the data directory, which control has made.

        Raises:
            ConfigurationError: the keys cannot be read.
        """
        # Imported late: cryptography takes 9 MB that a worker without Redis does not need.
        from llm_gateway.cache.encrypted_entries import Sealed  # noqa: PLC0415
        from llm_gateway.cache.redis import RedisCache  # noqa: PLC0415
        from llm_gateway.store.secrets import load_or_create_key_file, parse_keys  # noqa: PLC0415

        if encryption_keys:
            key = parse_keys(encryption_keys)[0]
        else:
            key = load_or_create_key_file(self._data_dir / KEY_FILE)[0]
        return RedisCache(MemoryCache(max_bytes), self._client, Sealed(key, __version__))

    def gauges(self) -> Iterator[MetricFamily]:
        """Yield what is measured of Redis."""
        counters = self._client.counters
        worker = {"worker": self._number}
        yield gauge("llm_gateway_redis_connected", "1 while Redis answers", float(self.is_up()), **worker)
        yield gauge(
            "llm_gateway_redis_limits_shared",
            "1 while Redis alone decides about rate limits, 0 while this host's bounds hold, too",
            float(self._host.mode.name == "shared"),
            **worker,
        )
        yield gauge("llm_gateway_redis_hosts", "Living hosts that share Redis", float(self._host.mode.hosts), **worker)
        for name, text, value in (
            (
                "llm_gateway_redis_trips",
                "Writes to Redis, each with all commands of a turn",
                counters.trips,
            ),
            ("llm_gateway_redis_timeouts", "Commands that Redis did not answer in time", counters.timeouts),
            ("llm_gateway_redis_refused", "Commands that were not sent, since too many waited", counters.refused),
            ("llm_gateway_redis_errors", "Errors that Redis answered", counters.errors),
            ("llm_gateway_redis_reconnects", "Times that Redis was back", counters.reconnects),
        ):
            yield MetricFamily(name=name, type="counter", help=text, samples=[Sample("_total", worker, float(value))])


def id_of_name(name: str) -> str:
    """Return the id of a host whose data directory does not last: it is the same after a start on an empty one."""
    return sha256(b"\0" + name.encode()).hexdigest()[:16]


def host_id(data_dir: Path) -> str:
    """Return the id of this host: random, kept in the data directory, and other on each machine that has a copy of it.

    Raises:
        ConfigurationError: the file cannot be read or made.
    """
    path = data_dir / HOST_FILE
    try:
        if not path.exists():
            draft = data_dir / f".{HOST_FILE}.{os.urandom(8).hex()}"
            draft.write_text(os.urandom(16).hex(), encoding="ascii")
            with suppress(FileExistsError):  # another worker was first
                os.link(draft, path)
            draft.unlink()
        kept = path.read_bytes()[:64]
    except OSError as error:
        raise ConfigurationError(
            f"The file {path} cannot be read or made ({error.strerror}): correct the permissions of its directory."
        ) from None
    return sha256(kept + b"\0" + socket.gethostname().encode()).hexdigest()[:16]
