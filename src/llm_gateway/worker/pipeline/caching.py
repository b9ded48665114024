"""Answers that are known already, and answers that are on their way already.

Exact match per (provider, model) of the plan, and one upstream call for identical requests in flight (single-flight).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from llm_gateway.cache.base import Cache
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import CacheStatus
from llm_gateway.errors import DeadlineExceeded, GatewayError, InternalError
from llm_gateway.protocols.registry import PROTOCOLS

if TYPE_CHECKING:
    from hashlib import _Hash

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Success)

FlightResult: TypeAlias = Success | GatewayError


class Flight:
    """One upstream call that others may be waiting for."""

    __slots__ = ("key", "landed")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.landed: asyncio.Future[FlightResult] | None = None


class Lookup:
    """What looking brought: `served` (a hit), or nothing, and then whether others wait for this request (`flight`).

    `keeps`: its answer is kept.
    """

    __slots__ = ("base", "flight", "keeps", "served", "status")

    def __init__(self, base: _Hash | None, status: CacheStatus, *, keeps: bool) -> None:
        self.base = base
        self.keeps = keeps
        self.status: CacheStatus = status
        self.served: Success | None = None
        self.flight: Flight | None = None


class Caching:
    """Looks answers up and keeps them. `ttl_s` 0 turns it off; `shared` lets customers share answers."""

    def __init__(
        self, cache: Cache, *, ttl_s: float, shared: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._ttl_s = ttl_s
        self._shared = shared
        self._clock = clock
        self._flights: dict[bytes, Flight] = {}

    async def lookup(self, request: Request, plan: Plan) -> Lookup:
        """A kept answer or one in flight; else the caller gets it and ends with `keep` or `abandon`.

        Raises:
            GatewayError: the call waited for failed, twice (another's deadline does not count); or this request's
                deadline passed while waiting.
        """
        if self._ttl_s <= 0 or not (request.use_cache or request.store_in_cache):
            return Lookup(None, "bypass", keeps=False)
        base, keeps = self._base(request), request.store_in_cache
        if not request.use_cache:
            return Lookup(base, "bypass", keeps=keeps)
        lookup = Lookup(base, "miss", keeps=keeps)
        keys = [_key(base, candidate.cache_part) for candidate in plan.candidates]
        flight_key = keys[0] if len(keys) == 1 else b"".join(keys)
        waited = False
        while True:
            served = await self._kept(keys)
            if served is not None:
                return self._hit(lookup, served)
            if request.stream:  # who waits for another's whole answer has no stream
                return lookup
            flight = self._flights.get(flight_key)
            if flight is None:
                if request.store_in_cache:
                    lookup.flight = self._flights[flight_key] = Flight(flight_key)
                return lookup
            landed = await self._wait(flight, request)
            if isinstance(landed, Success):
                return self._hit(lookup, landed)
            if waited and not isinstance(landed, DeadlineExceeded):
                try:
                    raise landed
                finally:
                    del flight, landed  # the error's traceback holds this frame
            waited = True

    async def _kept(self, keys: list[bytes]) -> Success | None:
        for key in keys:
            kept = await self._cache.get(key)
            if kept is not None:
                return _decoder.decode(kept)
        return None

    async def _wait(self, flight: Flight, request: Request) -> FlightResult:
        if flight.landed is None:
            flight.landed = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(request.deadline - self._clock()):
                return await asyncio.shield(flight.landed)
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed while an identical request was being answered.") from None

    @staticmethod
    def _hit(lookup: Lookup, served: Success) -> Lookup:
        lookup.status, lookup.served = "hit", served
        return lookup

    def _base(self, request: Request) -> _Hash:
        who, client_request = None if self._shared else request.user_id, request.client_request
        if client_request.is_canonical:
            return sha256(_encoded((who, client_request.conversation)))
        uncached = PROTOCOLS[client_request.protocol].uncached_fields
        document = {name: value for name, value in client_request.document.items() if name not in uncached}
        return sha256(_encoded((who, client_request.protocol, client_request.header_lines, document)))

    async def keep(self, lookup: Lookup, served: Success) -> None:
        """Keep a complete success under the candidate that gave it, and hand it to those who wait."""
        try:
            if lookup.base is not None and lookup.keeps and served.reply.is_cacheable:
                await self._cache.set(_key(lookup.base, served.cache_part), _encoder.encode(served), self._ttl_s)
        finally:
            self._land(lookup, served)

    def abandon(self, lookup: Lookup, error: BaseException) -> None:
        """The call failed: those who wait try once more themselves."""
        told = error if isinstance(error, GatewayError) else InternalError("An identical request failed.")
        self._land(lookup, told)

    def _land(self, lookup: Lookup, result: FlightResult) -> None:
        flight = lookup.flight
        if flight is None:
            return
        lookup.flight = None  # a flight that failed holds an error, whose traceback holds the lookup
        del self._flights[flight.key]
        if flight.landed is not None and not flight.landed.done():
            flight.landed.set_result(result)


def _encoded(question: tuple[object, ...]) -> bytes:
    try:
        return _encoder.encode(question)
    except OverflowError:  # JSON has integers of any size, MessagePack those of 64 bits
        return msgspec.json.encode(question)


def _key(base: _Hash, cache_part: bytes) -> bytes:
    key = base.copy()
    key.update(cache_part)
    return key.digest()
