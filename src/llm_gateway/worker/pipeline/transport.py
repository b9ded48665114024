"""HTTP calls to providers: keep a connection pool per provider, send calls, return responses and faults as results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.json_outline import SMALL_BYTES
from llm_gateway.provider_calls.pool_factory import MAX_BODY_BYTES, PoolFactory
from llm_gateway.provider_calls.results import FAULTS, result_of_fault, result_of_response
from llm_gateway.providers.rate_limit_headers import reported_limits
from llm_gateway.upstream.egress import AddressRefused, AddressUnknown, Egress
from llm_gateway.upstream.pool import CancelledBeforeSend, Pool, RequestNotSent, send_always
from llm_gateway.upstream.response import IncompleteResponse, Response, ResponseStream
from llm_gateway.worker.pipeline.upstream_events import UpstreamEvents

MAX_WAIT_S = 3600.0
"""Timeout in seconds of a read that another timeout bounds."""
RECHECK_SECONDS = 60.0
"""Seconds between two rounds of `recheck`."""
EVENT_STREAM = b"text/event-stream"


class _Pooled(NamedTuple):
    """A provider's connections, and the version of its configuration (`updated_at_ms`) that they were made for."""

    version: int
    pool: Pool


class Transport:
    """The connections to all providers: one pool each, replaced when the provider's configuration changes.

    Args:
        egress: decides which addresses may be called.
        log: `log(event, level=…, **fields)`.
        max_body_bytes: limit of a response that is read whole.
        recheck_s: seconds between two rounds of `recheck`.
    """

    def __init__(
        self,
        egress: Egress,
        *,
        log: Callable[..., None],
        max_body_bytes: int = MAX_BODY_BYTES,
        recheck_s: float = RECHECK_SECONDS,
    ) -> None:
        self._factory = PoolFactory(egress, max_body_bytes)
        self._log = log
        self._recheck_s = recheck_s
        self._pools: dict[str, _Pooled] = {}
        self._building: dict[tuple[str, int], asyncio.Task[Pool]] = {}

    async def post(
        self,
        provider: Provider,
        call: UpstreamCall,
        timeout_s: float,
        before_send: Callable[[], None] = send_always,
    ) -> UpstreamResult:
        """POST `call` to the provider, and return its whole response or the fault, within `timeout_s` seconds.

        `before_send` is called right before the request is sent; if it raises, nothing is sent. Never raises for what
        the network or the provider does.
        """
        started = monotonic()
        try:
            pool = await self._pool_of(provider, timeout_s)
            left_s = timeout_s - (monotonic() - started)
            return result_of_response(await pool.post(call.path, call.content, left_s, call.header_lines, before_send))
        except FAULTS as error:
            return result_of_fault(error)

    async def open(
        self,
        provider: Provider,
        call: UpstreamCall,
        timeout_s: float,
        before_send: Callable[[], None] = send_always,
    ) -> UpstreamResult | UpstreamEvents:
        """POST `call`, and return its event stream; the whole response or the fault if there is no event stream.

        The head of the response must arrive within `timeout_s` seconds, and so must all of a response that is not a
        stream. `before_send` is as for `post`. Never raises for what the network or the provider does.
        """
        started = monotonic()
        try:
            pool = await self._pool_of(provider, timeout_s)
            left_s = timeout_s - (monotonic() - started)
            stream = await pool.open(call.path, call.content, left_s, call.header_lines, before_send)
            content_type = stream.header(b"content-type") or b""
            if stream.status == 200 and content_type.lower().startswith(EVENT_STREAM):
                return UpstreamEvents(pool, stream, reported_limits(stream.headers))
            return await self._rest(pool, stream, timeout_s - (monotonic() - started))
        except FAULTS as error:
            return result_of_fault(error)

    async def _rest(self, pool: Pool, stream: ResponseStream, timeout_s: float) -> UpstreamResult:
        """Read the rest of a response that is not an event stream."""
        body, most = bytearray(), self._factory.max_body_bytes
        try:
            async with asyncio.timeout(timeout_s):
                while piece := await stream.read(MAX_WAIT_S):
                    body += piece
                    if len(body) > most:
                        raise IncompleteResponse(f"The provider's answer is larger than {most} bytes")
        finally:
            pool.release(stream)
        whole = body if len(body) > SMALL_BYTES else bytes(body)
        return result_of_response(Response(stream.status, stream.headers, whole))

    async def _pool_of(self, provider: Provider, timeout_s: float) -> Pool:
        pooled = self._pools.get(provider.id)
        if pooled is not None and pooled.version == provider.updated_at_ms:
            return pooled.pool
        if provider.target is None:
            raise RequestNotSent("The provider is not ready yet")
        return await self._build_once(provider, provider.target.root, timeout_s)

    async def _build_once(self, provider: Provider, root: str, timeout_s: float) -> Pool:
        """Build the provider's new pool once, for all calls that wait for it; each waits `timeout_s` at most."""
        key = (provider.id, provider.updated_at_ms)
        building = self._building.get(key)
        if building is None:
            building = self._building[key] = asyncio.create_task(self._build(provider, root))
            building.add_done_callback(lambda task: self._built(key, task))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(building)
        except TimeoutError:
            raise RequestNotSent("The provider's host was not resolved in time", is_ours=True) from None
        except asyncio.CancelledError:
            raise CancelledBeforeSend from None
        finally:
            del building  # breaks a reference cycle: the task's exception has a traceback that holds this frame

    async def _build(self, provider: Provider, root: str) -> Pool:
        pool = await self._factory.make(provider, root)
        self._forget(provider.id)  # the pool of the earlier configuration
        self._pools[provider.id] = _Pooled(provider.updated_at_ms, pool)
        return pool

    def _built(self, key: tuple[str, int], task: asyncio.Task[Pool]) -> None:
        del self._building[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the callers that waited may all have timed out

    def _forget(self, provider_id: str) -> None:
        gone = self._pools.pop(provider_id, None)
        if gone is not None:
            gone.pool.close_soon()

    def keep_only(self, snapshot: Snapshot) -> None:
        """Close the pools of providers that are not in the snapshot."""
        alive = {provider.id for provider in snapshot.providers.values()}
        for provider_id in [p for p in list(self._pools) if p not in alive]:
            self._forget(provider_id)

    async def recheck(self) -> None:
        """Maintain the pools every `recheck_s` seconds, until cancelled.

        It closes connections that were idle for long, and resolves each pinned host again: if its address changed or
        is refused now, its pool is closed.
        """
        while True:
            await asyncio.sleep(self._recheck_s)
            for provider_id, pooled in list(self._pools.items()):
                pool = pooled.pool
                pool.expire()
                if pool.pinned is None:
                    continue
                try:
                    pinned = await asyncio.to_thread(self._factory.egress.check, pool.root, pool.pinned)
                except AddressUnknown:
                    continue
                except AddressRefused as error:
                    self._log("upstream address refused", level="error", url=pool.root, reason=str(error))
                    pinned = None
                except Exception as error:  # edge: log it and go on; the host is checked again in the next round
                    self._log("upstream address not checked", level="error", url=pool.root, exc_info=error)
                    continue
                if pinned != pool.pinned and self._pools.get(provider_id) is pooled:
                    self._forget(provider_id)

    async def close(self) -> None:
        """Close every pool."""
        for building in list(self._building.values()):
            building.cancel()
        for provider_id in list(self._pools):
            self._forget(provider_id)
        await asyncio.sleep(0)  # closed connections are gone by the next turn of the loop
