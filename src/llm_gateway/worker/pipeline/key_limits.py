"""Limits of service keys: requests and tokens in any 60 seconds, and requests at once, of a key and of its parents.

    admit ── granted ──▶ held ── release: the record is settled ──▶ corrected to the tokens used
      └── a limit is full ──▶ what was taken of the others is given back, RateLimited

Requests and tokens are counted in windows like those of providers, by a limiter of their own. A request counts whether
it is answered by a provider or from the cache; of its tokens only those count that a provider served.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence

from llm_gateway.domain.request import Request
from llm_gateway.domain.service_key import KeyLimit
from llm_gateway.domain.usage import KeyCall, UsageRecord
from llm_gateway.errors import GatewayError, Overloaded, RateLimited, RequestExceedsLimit
from llm_gateway.host_memory.key_counts import KeyCounts
from llm_gateway.limiter.base import Decision, Limiter, Reservation, Wanted

NO_LIMIT = 2**53
BUSY_RETRY_S = 1.0
"""Seconds after which a request is worth another try that found too many others of its key in flight."""


class KeyLimits:
    """The limits of keys: requests and tokens counted by `limiter`, requests at once by `counts`, which workers share.

    Without `counts`, those of this process are all.
    """

    def __init__(self, limiter: Limiter, counts: KeyCounts | None = None) -> None:
        self._counts = counts
        self._limiter = limiter
        self._running: dict[str, int] = {}
        self._entered: dict[str, list[str | int]] = {}
        """Of each request that counts among those at once: its keys, or their places in the memory of `counts`."""
        self._held: dict[str, list[Reservation]] = {}

    def admit(self, request: Request, limits: tuple[KeyLimit, ...]) -> Awaitable[None] | None:
        """Count a request against all of these limits, or against none, until `release`.

        Returns what to wait for, if the limiter cannot tell at once.

        Raises:
            RateLimited: one of them is full.
            RequestExceedsLimit: the request can use more tokens than one of them has in all.
            Overloaded: the limiter cannot tell.
        """
        held = self._held[request.id] = []
        tokens = request.estimated_input_tokens() + request.max_tokens
        try:
            for limit in limits:
                if limit.max_parallel is not None:
                    self._enter(limit.key_id, limit.max_parallel, request)
            for limit in limits:
                rpm, tpm = limit.rpm, limit.tpm
                if rpm is None:
                    if tpm is None:
                        continue
                    rpm = NO_LIMIT
                elif tpm is None:
                    tpm = NO_LIMIT
                came = self._limiter.take_now(limit.key_id, rpm, tpm, tokens)
                if came is None:
                    return self._reserve_later(request, limits[limits.index(limit) :], held, tokens)
                if type(came) is Decision:
                    raise _refusal(limit, came, tokens)
                held.append(came)
        except BaseException:  # edge: a request that one limit refuses holds nothing of the others
            self._give_back(request)
            raise
        return None

    def release(self, record: UsageRecord) -> None:
        """Correct what a request holds to the tokens of its record; one that holds nothing is ignored."""
        held = self._held.pop(record.id, None)
        if held is None:
            return
        if self._entered:
            self._leave(record.id)
        usage = record.usage
        used = usage.input_tokens + usage.output_tokens
        lasted_s = record.latency_ms // 1000
        for reservation in held:
            self._limiter.settle(reservation, used, True, lasted_s)

    def refill(self, calls: Iterable[KeyCall], now_ms: int) -> None:
        """Count the requests of an earlier run. `now_ms` is the time of day, in milliseconds since 1970."""
        for call in calls:
            self._limiter.refill(call.key_id, max(0, now_ms - call.at_ms) / 1000, call.tokens)

    def close(self) -> None:
        """Give back what is counted ahead of requests, which do not come any more."""
        self._limiter.close()

    def _enter(self, key_id: str, most: int, request: Request) -> None:
        if self._counts is not None:
            place = self._counts.enter(key_id, most)
            if place is None:
                raise Overloaded(
                    "The memory that the workers share has no room for another key with max_parallel, or is locked: "
                    "send the request again.",
                    retry_after_s=BUSY_RETRY_S,
                )
            if place:
                self._entered.setdefault(request.id, []).append(place)
                return
        elif (count := self._running.get(key_id, 0)) < most:
            self._running[key_id] = count + 1
            self._entered.setdefault(request.id, []).append(key_id)
            return
        raise RateLimited(
            f"This key serves its maximum of {most} requests at once: try again when one has ended.",
            retry_after_s=BUSY_RETRY_S,
        )

    def _leave(self, request_id: str) -> None:
        for place in self._entered.pop(request_id, ()):
            if isinstance(place, str):
                count = self._running[place] - 1
                if count:
                    self._running[place] = count
                else:
                    del self._running[place]
            elif self._counts is not None:
                self._counts.leave(place)

    async def _reserve_later(
        self, request: Request, limits: Sequence[KeyLimit], held: list[Reservation], tokens: int
    ) -> None:
        try:
            counted = [limit for limit in limits if limit.rpm is not None or limit.tpm is not None]
            taken, refused = await self._limiter.take_all([_wanted(limit, tokens) for limit in counted])
            held += taken
            if refused is not None:
                raise _refusal(counted[len(taken)], refused, tokens)
        except BaseException:  # edge: a request that is cancelled while it waits holds nothing either
            self._give_back(request)
            raise

    def _give_back(self, request: Request) -> None:
        self._leave(request.id)
        for reservation in self._held.pop(request.id):
            self._limiter.settle(reservation, tokens=0, sent=False)


def _wanted(limit: KeyLimit, tokens: int) -> Wanted:
    rpm = NO_LIMIT if limit.rpm is None else limit.rpm
    return Wanted(limit.key_id, rpm, NO_LIMIT if limit.tpm is None else limit.tpm, tokens)


def _refusal(limit: KeyLimit, decision: Decision, tokens: int) -> GatewayError:
    if decision.exceeds:
        return RequestExceedsLimit(
            f"The request can use {tokens} tokens, more than the {limit.tpm} that its key may use in 60 seconds: lower "
            "its limit of output tokens, or shorten it."
        )
    shown = [f"{limit.rpm} requests"] if limit.rpm is not None else []
    shown += [f"{limit.tpm} tokens"] if limit.tpm is not None else []
    return RateLimited(
        f"This key is at its limit of {' and '.join(shown)} in 60 seconds: try again later.",
        retry_after_s=decision.retry_after_s,
    )
