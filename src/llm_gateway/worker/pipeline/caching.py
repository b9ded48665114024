"""Cached answers by exact match: look up and store them; whole requests wait for an identical one in flight.

Keys match exactly, per (provider, model) of the plan. A key is a hash of the request's document, and of its user id
unless customers share answers; the candidate's `cache_part` follows it. Streamed requests read and fill the cache, but
never wait for an identical request.

An answer is no hit for a plan that puts a candidate before it which its own plan did not: a new override, or another
priority, must be obeyed at once. Answers of candidates that stood in for these are hits, as long as they come first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TypeAlias

import msgspec

from llm_gateway.cache.base import Cache
from llm_gateway.domain.catalog import Tiers
from llm_gateway.domain.client_presence import ClientPresence
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import CacheStatus
from llm_gateway.errors import (
    BudgetExceeded,
    BudgetReserved,
    BudgetUnavailable,
    DeadlineExceeded,
    GatewayError,
    InternalError,
)
from llm_gateway.protocols.registry import PROTOCOLS

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[tuple[bytes, ...], Success])

NOT_SERVED = "This request waited for the answer of an identical one, which the gateway failed to serve: try again."
FlightResult: TypeAlias = Success | GatewayError | None
"""The answer of a flight or its error; None if it was given up."""


class Flight(msgspec.Struct, eq=False):
    """One upstream call whose result identical requests may wait for; `landed` is created by the first that waits.

    `presence` is that of the request that makes the call: it goes on while one of the others waits.
    """

    key: tuple[bytes, ...]
    presence: ClientPresence
    landed: asyncio.Future[FlightResult] | None = None


class Lookup(msgspec.Struct, eq=False):
    """The result of a cache lookup: `served` on a hit; on a miss, the `flight` that identical requests wait for.

    `flight` is None if no request can wait for this one. `keeps`: the answer is to be cached. `base` is the request's
    part of the key; None if the cache is not used. `tiers` are those of the request's plan.
    """

    base: bytes | None
    status: CacheStatus
    keeps: bool
    tiers: Tiers = ()
    served: Success | None = None
    flight: Flight | None = None


class Caching:
    """The cache of complete answers. Entries live for `ttl_s` seconds, 0 disables it; `shared`: across customers."""

    def __init__(
        self, cache: Cache, *, ttl_s: float, shared: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._ttl_s = ttl_s
        self._shared = shared
        self._clock = clock
        self._flights: dict[tuple[bytes, ...], Flight] = {}

    async def lookup(self, request: Request, plan: Plan) -> Lookup:
        """Look for a cached answer, or wait for an identical request in flight.

        On a miss, the caller makes the upstream call, and then calls `keep` or `abandon` with the lookup.

        Raises:
            GatewayError: the second call that this request waited for failed, or a later one (one that only missed its
                own deadline, or was cancelled, does not count); or this request's deadline passed while it waited.
        """
        if self._ttl_s <= 0 or not (request.use_cache or request.store_in_cache):
            return Lookup(None, "bypass", keeps=False)
        base, keeps = self._base(request), request.store_in_cache
        if not request.use_cache:
            return Lookup(base, "bypass", keeps=keeps, tiers=plan.tiers)
        lookup = Lookup(base, "miss", keeps=keeps, tiers=plan.tiers)
        # Requests share a flight only if their plans try the same candidates in the same order.
        flight_key = base, *[candidate.cache_part for candidate in plan.candidates]
        waited = False
        while True:
            served = await self._kept(base, plan.tiers)
            if served is not None:
                return self._hit(lookup, served)
            flight = self._flights.get(flight_key)
            if flight is None or request.stream:
                return self._miss(lookup, flight_key, request)
            landed = await self._wait(flight, request)
            if isinstance(landed, Success):
                return self._hit(lookup, landed)
            if isinstance(landed, BudgetExceeded | BudgetReserved | BudgetUnavailable):
                return lookup  # the budgets of another key are not this request's: it tries by itself
            if landed is None:
                continue
            if waited and not isinstance(landed, DeadlineExceeded):
                try:
                    raise landed
                finally:
                    del flight, landed  # the error's traceback holds this frame
            waited = True

    async def peek(self, request: Request, plan: Plan) -> CacheStatus:
        """Return whether a lookup would find an answer now."""
        if self._ttl_s <= 0 or not request.use_cache:
            return "bypass"
        return "miss" if await self._kept(self._base(request), plan.tiers) is None else "hit"

    def _miss(self, lookup: Lookup, flight_key: tuple[bytes, ...], request: Request) -> Lookup:
        # An answer that must not be stored is not shared either, and another request's whole answer is no stream.
        if request.store_in_cache and not request.stream:
            lookup.flight = self._flights[flight_key] = Flight(flight_key, request.presence)
        return lookup

    async def _kept(self, base: bytes, tiers: Tiers) -> Success | None:
        found = None if self._cache.is_near else await self._far(base, tiers)
        for place, tier in enumerate(tiers):
            for candidate in tier:
                kept = await self._cache.get(base + candidate.cache_part) if found is None else next(found)
                if kept is not None:
                    try:
                        passed, served = _decoder.decode(kept)
                    except msgspec.DecodeError:  # of another host, whose answers have other fields
                        continue
                    if place and not _parts(tiers[:place]) <= {*passed}:
                        continue
                    name = candidate.provider.name
                    # The key has the provider's id: the provider can have been renamed since.
                    return served if served.provider == name else msgspec.structs.replace(served, provider=name)
        return None

    async def _far(self, base: bytes, tiers: Tiers) -> Iterator[bytes | None]:
        """Return what is kept for each candidate, in their order, from one trip."""
        return iter(await self._cache.get_all([base + candidate.cache_part for tier in tiers for candidate in tier]))

    async def _wait(self, flight: Flight, request: Request) -> FlightResult:
        if flight.landed is None:
            flight.landed = asyncio.get_running_loop().create_future()
        flight.presence.join()
        try:
            with request.presence:
                async with asyncio.timeout(request.deadline - self._clock()):
                    return await asyncio.shield(flight.landed)  # cancelling one waiter must not cancel the others
        except TimeoutError:
            raise DeadlineExceeded(
                "The deadline passed while this request waited for the answer to an identical one: send it again, or "
                "raise x-request-timeout-ms."
            ) from None
        finally:
            flight.presence.part()

    @staticmethod
    def _hit(lookup: Lookup, served: Success) -> Lookup:
        lookup.status, lookup.served = "hit", served
        return lookup

    def _base(self, request: Request) -> bytes:
        who, client_request = None if self._shared else request.user_id, request.client_request
        if client_request.is_canonical:
            return sha256(_encoded((who, client_request.conversation))).digest()
        if client_request.apart is not None:
            return sha256(
                _encoded((who, client_request.protocol, client_request.header_lines, client_request.apart.digest))
            ).digest()
        uncached = PROTOCOLS[client_request.protocol].uncached_fields
        document = {name: value for name, value in client_request.document.items() if name not in uncached}
        return sha256(_encoded((who, client_request.protocol, client_request.header_lines, document))).digest()

    async def keep(self, lookup: Lookup, served: Success) -> None:
        """Cache a complete answer under the candidate that gave it, and return it to identical requests that wait."""
        try:
            if lookup.base is not None and lookup.keeps and served.reply.is_cacheable:
                kept = _encoder.encode((_passed(lookup.tiers, served.cache_part), served))
                await self._cache.set(lookup.base + served.cache_part, kept, self._ttl_s)
        finally:
            self._land(lookup, served)

    def abandon(self, lookup: Lookup, error: BaseException) -> None:
        """Report to the identical requests that wait that the call failed, or was cancelled; they look up once more.

        A cancelled call does not count as one that failed.
        """
        if isinstance(error, asyncio.CancelledError):
            self._land(lookup, None)
        else:
            self._land(lookup, error if isinstance(error, GatewayError) else InternalError(NOT_SERVED))

    def _land(self, lookup: Lookup, result: FlightResult) -> None:
        flight = lookup.flight
        if flight is None:
            return
        lookup.flight = None  # breaks a reference cycle: a failed flight's error has a traceback that holds the lookup
        del self._flights[flight.key]
        if flight.landed is not None and not flight.landed.done():
            flight.landed.set_result(result)


def _passed(tiers: Tiers, cache_part: bytes) -> tuple[bytes, ...]:
    """Return the candidates of the tiers before the tier of `cache_part`, as their `cache_part`."""
    for place, tier in enumerate(tiers):
        for candidate in tier:
            if candidate.cache_part == cache_part:
                return tuple(_parts(tiers[:place])) if place else ()
    return ()


def _parts(tiers: Tiers) -> set[bytes]:
    return {candidate.cache_part for tier in tiers for candidate in tier}


def _encoded(request_parts: tuple[object, ...]) -> bytes:
    try:
        return _encoder.encode(request_parts)
    except OverflowError:  # JSON has integers of any size, MessagePack those of 64 bits
        return msgspec.json.encode(request_parts)
