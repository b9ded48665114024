"""The one upstream HTTP client: a pool per provider, timeouts, and connections pinned to checked addresses.

pyreqwest's exception types do not tell whether a request was sent (a reset after sending is a `ConnectError`), its
causes do: `client error (Connect)` was never sent, `client error (SendRequest)` or anything later possibly was.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, RequestTimeoutError
from pyreqwest.http import Url
from pyreqwest.response import Response

from llm_gateway.domain.addresses import is_public
from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.plan import Exchange

CONNECT_TIMEOUT = timedelta(seconds=3)
IDLE_TIMEOUT = timedelta(seconds=50)
MAX_BODY_BYTES = 32 * 1024 * 1024
RECHECK_SECONDS = 60.0


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

    def check(self, url: str) -> str | None:
        """The address the connection must be pinned to; None when it need not be. Resolves names: blocks.

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
        # One family is the reachable one, and the resolver puts it first; within it the order may change at every call.
        return min(address for address in addresses if (":" in address) == (":" in addresses[0]))


class _Pool:
    """A provider's client, the version of the configuration it was built for, and the address it is pinned to.

    `target` and `timeout` are what its calls are made with, in the client's own types.
    """

    __slots__ = ("client", "pinned", "target", "timeout", "timeout_s", "url", "version")

    def __init__(self, provider: Provider, url: str, pinned: str | None, client: Client) -> None:
        self.version = provider.updated_at_ms
        self.url = url
        self.target = Url(url)
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

    async def post(self, provider: Provider, body: bytes, timeout_s: float) -> Exchange:
        """POST `body` to the provider's target, all within `timeout_s` seconds. Never raises for what upstream does."""
        target = provider.target
        if target is None:
            return Exchange(fault="not_sent", message="The provider is not ready yet")
        pool = self._pools.get(provider.id)
        if pool is None or pool.version != provider.updated_at_ms:
            try:
                pool = await self._build(provider, target.url)
            except AddressRefused as error:
                return Exchange(fault="not_sent", message=str(error))
            except ValueError:  # its message would quote the key
                return Exchange(fault="not_sent", message="The provider's key cannot be sent in a header")
        timeout = pool.timeout if timeout_s == pool.timeout_s else timedelta(seconds=timeout_s)
        request = pool.client.post(pool.target).body_bytes(body).timeout(timeout).build_streamed()
        try:
            async with request as response:
                return await _read(response, self._max_body_bytes)
        except DetailedPyreqwestError as error:
            return _fault(error)

    async def _build(self, provider: Provider, url: str) -> _Pool:
        pinned = None
        if self._egress.strict and not (provider.kind == "local" and provider.base_url is None):
            pinned = await asyncio.to_thread(self._egress.check, url)
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
            parts = urlsplit(url)
            builder = builder.resolve(parts.hostname or "", pinned, parts.port or 443)
        self._pools[provider.id] = pool = _Pool(provider, url, pinned, builder.build())
        return pool

    async def list_models(self, provider: Provider, timeout_s: float) -> Exchange:
        """GET the provider's model list, all within `timeout_s` seconds. Never raises for what upstream does.

        On a connection of its own, which ends with it: it tells whether one can be made now.
        """
        target = provider.target
        if target is None:
            return Exchange(fault="not_sent", message="The provider is not ready yet")
        once = Transport(self._egress, log=self._log, max_body_bytes=self._max_body_bytes)
        deadline = monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                client = (await once._build(provider, target.models_url)).client
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
            await once.close()

    def keep_only(self, snapshot: Snapshot) -> None:
        """Forget the pools of providers that are gone."""
        alive = {provider.id for provider in snapshot.providers.values()}
        for provider_id in [p for p in self._pools if p not in alive]:
            del self._pools[provider_id]

    async def recheck(self) -> None:
        """Check every pinned address again, for ever: a name that moved to a forbidden address loses its pool."""
        while True:
            await asyncio.sleep(self._recheck_s)
            for provider_id, pool in list(self._pools.items()):
                if pool.pinned is None:
                    continue
                try:
                    pinned = await asyncio.to_thread(self._egress.check, pool.url)
                except AddressUnknown:
                    continue
                except AddressRefused as error:
                    self._log("upstream address refused", level="error", url=pool.url, reason=str(error))
                    pinned = None
                if pinned != pool.pinned and self._pools.get(provider_id) is pool:
                    del self._pools[provider_id]

    async def close(self) -> None:
        """Close every pool."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.client.close()


async def _read(response: Response, max_bytes: int) -> Exchange:
    status = response.status
    retry_after = None if status == 200 else _retry_after(response.get_header("retry-after"))
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
    root = causes[-1] if causes else error.message
    if "client error (Connect)" in causes:
        return Exchange(fault="not_sent", message=f"No connection: {root}")
    if isinstance(error, RequestTimeoutError):
        return Exchange(fault="timeout", message="No complete answer in time")
    return Exchange(fault="broken", message=f"The connection broke: {root}")


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
