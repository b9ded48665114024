"""The one upstream HTTP client: a pool per provider, timeouts, and connections pinned to checked addresses.

pyreqwest's exception types do not tell whether a request was sent (a reset after sending is a `ConnectError`), its
causes do: `client error (Connect)` was never sent, `client error (SendRequest)` or anything later possibly was.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import re
import socket
from collections.abc import Callable
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, RequestTimeoutError
from pyreqwest.http import Url
from pyreqwest.response import Response

from llm_gateway.domain.addresses import is_public
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.plan import Call, Exchange

CONNECT_TIMEOUT = timedelta(seconds=3)
IDLE_TIMEOUT = timedelta(seconds=50)
MAX_BODY_BYTES = 32 * 1024 * 1024
RECHECK_SECONDS = 60.0
CAUSE_CHARACTERS = 300
OUT_OF_FILES = re.compile(rf"\(os error ({errno.EMFILE}|{errno.ENFILE})\)")


class AddressRefused(Exception):
    """An upstream address that production must not call; the message is a sentence for the operator."""


class AddressUnknown(AddressRefused):
    """The host does not resolve now, which says nothing about where it is."""


Resolve: TypeAlias = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, the one that is best reached from here first. Blocks.

    Raises:
        OSError: it does not resolve.
        UnicodeError: it cannot be the name of a host.
    """
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Egress:
    """Where upstream calls may go. `strict` (production): https to public addresses, or to `private_hosts`."""

    def __init__(
        self, *, strict: bool, private_hosts: frozenset[str] = frozenset(), resolve: Resolve = resolve
    ) -> None:
        self.strict = strict
        self._private_hosts = private_hosts
        self._resolve = resolve

    def check(self, url: str, pinned: str | None = None) -> str | None:
        """The address the connection must be pinned to; None when it need not be. Resolves names: blocks.

        It stays `pinned` as long as that is one of the host's addresses: a host may show others at every look.

        Raises:
            AddressRefused: the URL may not be called, or its host does not resolve.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        try:
            Url(url)
        except ValueError as error:
            raise AddressRefused(f"{host} cannot be called: {error}.") from None
        if not self.strict or host in self._private_hosts:
            return None
        if parts.scheme != "https":
            raise AddressRefused(f"{host} must be called over https in production.")
        try:
            addresses = self._resolve(host, parts.port or 443)
        except (OSError, UnicodeError) as error:
            raise AddressUnknown(f"{host} does not resolve: {error}.") from None
        for address in addresses:
            if not is_public(address):
                raise AddressRefused(
                    f"{host} is at {address}, which is not a public address: "
                    "name the host in LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS if it is meant."
                )
        if pinned in addresses:
            return pinned
        # One family is the reachable one, and the resolver puts it first; within it the order may change at every call.
        return min(address for address in addresses if (":" in address) == (":" in addresses[0]))


class _Pool:
    """A provider's client, the version of the configuration it was built for, and the address it is pinned to.

    `url_by_path` and `timeout` are what its calls are made with, in the client's own types; paths differ by model only,
    so there are as many as the provider has models.
    """

    __slots__ = ("client", "pinned", "root", "timeout", "timeout_s", "url_by_path", "version")

    def __init__(self, provider: Provider, root: str, pinned: str | None, client: Client) -> None:
        self.version = provider.updated_at_ms
        self.root = root
        self.url_by_path: dict[str, Url] = {}
        self.timeout_s = provider.timeout_s
        self.timeout = timedelta(seconds=provider.timeout_s)
        self.pinned = pinned
        self.client = client


class Transport:
    """Sends attempts. Every provider has a connection pool of its own, made anew when its configuration changes."""

    def __init__(
        self,
        egress: Egress,
        *,
        log: Callable[..., None],
        max_body_bytes: int = MAX_BODY_BYTES,
        recheck_s: float = RECHECK_SECONDS,
    ) -> None:
        self._egress = egress
        self._log = log
        self._max_body_bytes = max_body_bytes
        self._recheck_s = recheck_s
        self._pools: dict[str, _Pool] = {}
        self._building: dict[tuple[str, int], asyncio.Task[_Pool]] = {}
        # The first client starts the threads that all share, and should that fail no later one tries again.
        self._first = ClientBuilder().build()

    async def post(self, provider: Provider, call: Call, timeout_s: float) -> Exchange:
        """POST `call` to the provider, all within `timeout_s` seconds. Never raises for what upstream does."""
        target = provider.target
        if target is None:
            return Exchange(fault="not_sent", message="The provider is not ready yet")
        pool = self._pools.get(provider.id)
        if pool is None or pool.version != provider.updated_at_ms:
            started = monotonic()
            try:
                pool = await self._build_once(provider, target.root, timeout_s)
            except TimeoutError:
                return Exchange(fault="not_sent", message="The provider's host was not resolved in time", is_ours=True)
            except AddressRefused as error:
                return Exchange(fault="not_sent", message=str(error))
            except (BuilderError, RuntimeError):  # no more files or threads
                return Exchange(fault="not_sent", message="No client can be made: free files or threads", is_ours=True)
            except ValueError:  # its message would quote the key
                return Exchange(fault="not_sent", message="The provider's key cannot be sent in a header")
            timeout_s = max(0.001, timeout_s - (monotonic() - started))
        timeout = pool.timeout if timeout_s == pool.timeout_s else timedelta(seconds=timeout_s)
        url = pool.url_by_path.get(call.path)
        if url is None:
            url = pool.url_by_path[call.path] = Url(pool.root + call.path)
        request = pool.client.post(url).body_bytes(call.body).timeout(timeout).build_streamed()
        try:
            async with request as response:
                return await _read(response, self._max_body_bytes)
        except DetailedPyreqwestError as error:
            return _fault(error)

    async def _build_once(self, provider: Provider, root: str, timeout_s: float) -> _Pool:
        """The provider's new pool, built once for all who wait for it; each of them waits so many seconds."""
        key = (provider.id, provider.updated_at_ms)
        building = self._building.get(key)
        if building is None:
            building = self._building[key] = asyncio.create_task(self._build(provider, root))
            building.add_done_callback(lambda task: self._built(key, task))
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(building)

    async def _build(self, provider: Provider, root: str) -> _Pool:
        pool = self._pools[provider.id] = await self._pool(provider, root)
        return pool

    def _built(self, key: tuple[str, int], task: asyncio.Task[_Pool]) -> None:
        del self._building[key]
        if not task.cancelled():
            task.exception()  # those who waited have it; perhaps none of them waited so long

    async def _pool(self, provider: Provider, root: str) -> _Pool:
        pinned = None
        if self._egress.strict and not (provider.kind == "local" and provider.base_url is None):
            pinned = await asyncio.to_thread(self._egress.check, root)
        builder = (
            ClientBuilder()
            .default_headers(provider.target.headers if provider.target else {})
            .user_agent("llm-gateway")
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .follow_redirects(False)
            .no_proxy()
            .tcp_nodelay(True)
        )
        if pinned is not None:
            parts = urlsplit(root)
            builder = builder.resolve(parts.hostname or "", pinned, parts.port or 443)
        return _Pool(provider, root, pinned, builder.build())

    async def list_models(self, provider: Provider, timeout_s: float) -> Exchange:
        """GET the provider's model list, all within `timeout_s` seconds. Never raises for what upstream does.

        On a connection of its own, which ends with it: it tells whether one can be made now.
        """
        target = provider.target
        if target is None:
            return Exchange(fault="not_sent", message="The provider is not ready yet")
        client: Client | None = None
        deadline = monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                client = (await self._pool(provider, target.models_url)).client
            # The client's own timeout: a call that is cancelled instead keeps its connection.
            left = timedelta(seconds=max(0.001, deadline - monotonic()))
            async with client.get(Url(target.models_url)).timeout(left).build_streamed() as response:
                return await _read(response, self._max_body_bytes)
        except AddressRefused as error:
            return Exchange(fault="not_sent", message=str(error))
        except ValueError:  # its message would quote the key
            return Exchange(fault="not_sent", message="The provider's key cannot be sent in a header")
        except DetailedPyreqwestError as error:
            return _fault(error)
        except TimeoutError:
            return Exchange(fault="timeout", message="No complete answer in time")
        finally:
            if client is not None:
                await client.close()

    def keep_only(self, snapshot: Snapshot) -> None:
        """Forget the pools of providers that are gone."""
        alive = {provider.id for provider in snapshot.providers.values()}
        for provider_id in [p for p in list(self._pools) if p not in alive]:
            self._pools.pop(provider_id, None)

    async def recheck(self) -> None:
        """Check every pinned address again, for ever: a name that moved to a forbidden address loses its pool."""
        while True:
            await asyncio.sleep(self._recheck_s)
            for provider_id, pool in list(self._pools.items()):
                if pool.pinned is None:
                    continue
                try:
                    pinned = await asyncio.to_thread(self._egress.check, pool.root, pool.pinned)
                except AddressUnknown:
                    continue
                except AddressRefused as error:
                    self._log("upstream address refused", level="error", url=pool.root, reason=str(error))
                    pinned = None
                except Exception as error:  # edge: whatever it is, the next check comes
                    self._log("upstream address not checked", level="error", url=pool.root, exc_info=error)
                    continue
                if pinned != pool.pinned and self._pools.get(provider_id) is pool:
                    del self._pools[provider_id]

    async def close(self) -> None:
        """Close every pool."""
        for building in list(self._building.values()):
            building.cancel()
        await self._first.close()
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.client.close()


async def _read(response: Response, max_bytes: int) -> Exchange:
    status = response.status
    retry_after = None if status == 200 else _said_retry_after(response)
    reader = response.body_reader
    first = await reader.read_chunk()
    if first is None:
        return Exchange(status=status, retry_after_s=retry_after)
    second = await reader.read_chunk()
    if second is None and len(first) <= max_bytes:
        return Exchange(status=status, body=bytes(first), retry_after_s=retry_after)
    body = bytearray(first)
    chunk: Any = second or b""
    while chunk is not None:
        body += chunk
        if len(body) > max_bytes:
            return Exchange(fault="broken", message=f"The answer is larger than {max_bytes} bytes")
        chunk = await reader.read_chunk()
    return Exchange(status=status, body=bytes(body), retry_after_s=retry_after)


def _fault(error: DetailedPyreqwestError) -> Exchange:
    causes = [cause["message"] for cause in error.details["causes"] or ()]
    root = (causes[-1] if causes else error.message)[:CAUSE_CHARACTERS]
    if "client error (Connect)" in causes:
        return Exchange(
            fault="not_sent", message=f"No connection: {root}", is_ours=OUT_OF_FILES.search(root) is not None
        )
    if isinstance(error, RequestTimeoutError):
        return Exchange(fault="timeout", message="No complete answer in time")
    return Exchange(fault="broken", message=f"The connection broke: {root}")


def _said_retry_after(response: Response) -> float | None:
    try:
        return _retry_after(response.get_header("retry-after"))
    except ValueError:  # it is no ASCII
        return None


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, section 10.2.3); None if it cannot be read."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with contextlib.suppress(ValueError, TypeError):
        when = parsedate_to_datetime(value)  # naive where the zone is missing or -0000
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time())
    return None
