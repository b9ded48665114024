"""Try the plan's candidates in order until one answers.

Per attempt: breaker → admit → intent → encode → send → decode → outcome. At most three sent attempts a request, all
within the request's deadline; a lone candidate is retried once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple, Protocol, Self, TypeAlias

import msgspec

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.course import Course, Failure
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call, Exchange, Plan, Served
from llm_gateway.domain.usage import AttemptRecord, UsageRecord
from llm_gateway.errors import (
    DeadlineExceeded,
)
from llm_gateway.limiter.base import Decision, Reservation
from llm_gateway.protocols.base import Malformed
from llm_gateway.providers.base import Adapter
from llm_gateway.providers.decoding import json_text

RestReason: TypeAlias = Literal["rate_limited", "refused"]

MAX_SENT_ATTEMPTS = 3
RETRY_PAUSE_S = (0.2, 2.0)
DEADLINE_SLACK_S = 0.005
SAID_CHARACTERS = 500
CALLERS_FAULT = frozenset({400, 413, 422})
KEY_REFUSED = frozenset({401, 402, 403})
"""The key, or the account behind it."""
NO_RETRY_ON_SAME = KEY_REFUSED | {404, 429}


class Breaker(Protocol):
    """The breaker of one (provider, model)."""

    def admit(self) -> int | None: ...
    def holds(self, permit: int) -> bool: ...
    def succeed(self, permit: int) -> None: ...
    def fail(self, permit: int) -> None: ...
    def release(self, permit: int) -> None: ...
    def retry_after_s(self) -> float: ...


class Health(Protocol):
    """What is known of the providers' state: breakers, rests, calls in flight, retry budget."""

    def breaker(self, provider_id: str, model: str) -> Breaker: ...
    def resting(self, provider_id: str) -> tuple[float, RestReason] | None: ...
    def rest(self, provider_id: str, seconds: float | None, reason: RestReason) -> None: ...
    def begin(self, provider_id: str) -> None: ...
    def end(self, provider_id: str) -> None: ...
    def in_flight(self, provider_id: str) -> int: ...
    def may_retry(self, provider_id: str) -> bool: ...


class Admission(Protocol):
    """Rate limits."""

    async def admit(self, request: Request, candidate: Candidate) -> Decision: ...
    def never_sent(self, reservation: Reservation) -> int: ...
    def used(self, reservation: Reservation, tokens: int) -> int: ...
    def unknown(self, reservation: Reservation) -> int: ...


class Transport(Protocol):
    """The upstream HTTP client."""

    async def post(self, provider: Provider, call: Call, timeout_s: float) -> Exchange: ...


class Recording(Protocol):
    """The journal's intents and outcomes."""

    async def intend(
        self, record: UsageRecord, request: Request, candidate: Candidate, reserved: int
    ) -> AttemptRecord: ...
    def outcome(self, record: UsageRecord, attempt: AttemptRecord) -> None: ...
    def bought(self, attempt: AttemptRecord, reply: Reply) -> None: ...
    def bought_nothing(self, attempt: AttemptRecord) -> None: ...


class Pace(NamedTuple):
    """Time and chance: seconds of `time.monotonic()`, how to wait, and a number between two others."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


class _Try:
    """One attempt under way: what it holds until it is concluded."""

    __slots__ = ("attempt", "breaker", "candidate", "full_timeout", "permit", "reservation", "started")

    def __init__(self, candidate: Candidate, breaker: Breaker, permit: int, reservation: Reservation) -> None:
        self.candidate = candidate
        self.breaker = breaker
        self.permit = permit
        self.reservation = reservation
        self.attempt: AttemptRecord
        self.full_timeout = True
        self.started = 0.0


class Failover:
    """Runs plans. `adapters` are keyed by kind; `redact` cleans what providers say before anyone sees it."""

    def __init__(
        self,
        *,
        health: Health,
        admission: Admission,
        transport: Transport,
        recording: Recording,
        adapters: Mapping[str, Adapter],
        redact: Callable[[str], str],
        log: Callable[..., None],
    ) -> None:
        self._health = health
        self._admission = admission
        self._transport = transport
        self._recording = recording
        self._adapters = adapters
        self._redact = redact
        self._log = log
        self._pace = Pace()

    def paced(self, pace: Pace) -> Self:
        """The same, by another clock."""
        self._pace = pace
        return self

    async def run(self, request: Request, plan: Plan, record: UsageRecord) -> Served:
        """The first complete success.

        Raises:
            GatewayError: 429, 502, 503 or 504, once nothing is left to try or the deadline passed.
        """
        course = Course(request, record)
        for tier in plan.tiers:
            waiting = list(tier)
            while waiting:
                candidate = waiting[0] if len(waiting) == 1 else min(waiting, key=self._busyness)
                waiting.remove(candidate)
                served = await self._try(course, candidate)
                if served is not None:
                    return served
                if course.failure is not None and course.failure.final:
                    raise course.error()
                if course.sent >= MAX_SENT_ATTEMPTS:
                    self._check_deadline(course)
                    raise course.error()
        candidates = plan.candidates
        if len(candidates) == 1 and await self._worth_a_retry(course, candidates[0]):
            served = await self._try(course, candidates[0])
            if served is not None:
                return served
        self._check_deadline(course)
        raise course.error()

    def _busyness(self, candidate: Candidate) -> int:
        return self._health.in_flight(candidate.provider.id)

    async def _worth_a_retry(self, course: Course, candidate: Candidate) -> bool:
        """Whether the lone candidate is tried once more; pauses before saying yes."""
        if course.failure is None or not course.failure.retry_on_same:
            return False
        asked = course.failure.retry_after_s
        if asked > RETRY_PAUSE_S[1]:
            return False
        pause = max(self._pace.uniform(*RETRY_PAUSE_S), asked)
        if self._remaining(course) - pause <= DEADLINE_SLACK_S or not self._health.may_retry(candidate.provider.id):
            return False
        await self._pace.sleep(pause)
        return True

    def _remaining(self, course: Course) -> float:
        return course.request.deadline - self._pace.clock()

    def _check_deadline(self, course: Course) -> float:
        remaining = self._remaining(course)
        if remaining <= DEADLINE_SLACK_S:
            said = f" The last attempt: {course.failure.message}" if course.failure is not None else ""
            raise DeadlineExceeded(f"No provider answered within the request's deadline.{said}")
        return remaining

    async def _try(self, course: Course, candidate: Candidate) -> Served | None:
        """One candidate: passed over, failed (None, noted in `course`), or served."""
        remaining = self._check_deadline(course)
        provider, health = candidate.provider, self._health
        rest = health.resting(provider.id)
        if rest is not None:
            course.passed_over(rest[0], limited=rest[1] == "rate_limited")
            return None
        breaker = health.breaker(provider.id, candidate.model)
        permit = breaker.admit()
        if permit is None:
            course.passed_over(breaker.retry_after_s(), limited=False)
            return None
        try:
            decision = await self._admission.admit(course.request, candidate)
        except BaseException:  # edge: cancelled, or the limiter does not answer; the permit must not be lost with it
            breaker.release(permit)
            raise
        if decision.reservation is None:
            breaker.release(permit)
            if not decision.exceeds:
                course.passed_over(decision.retry_after_s, limited=True)
            return None
        this = _Try(candidate, breaker, permit, decision.reservation)
        exchange = await self._send(course, this, remaining)
        try:
            return self._conclude(course, this, exchange)
        except Exception:  # edge: a defect of ours in reading the answer; the permit must not be lost with it
            breaker.release(permit)
            raise

    async def _send(self, course: Course, this: _Try, remaining: float) -> Exchange:
        provider, health = this.candidate.provider, self._health
        try:
            call = self._adapters[provider.kind].encode(
                course.request, this.candidate.model, has_json_mode=provider.has_json_mode
            )
            this.attempt = await self._recording.intend(
                course.record, course.request, this.candidate, this.reservation.tokens
            )
        except BaseException:  # edge: whatever went wrong, nothing was sent, so nothing stays reserved
            self._admission.never_sent(this.reservation)
            this.breaker.release(this.permit)
            raise
        if not this.breaker.holds(this.permit):
            return Exchange(fault="not_sent", message="It failed meanwhile and is being spared", is_ours=True)
        this.full_timeout = provider.timeout_s <= remaining
        this.started = self._pace.clock()
        health.begin(provider.id)
        try:
            return await self._transport.post(provider, call, min(provider.timeout_s, remaining))
        except BaseException as error:  # edge: cancelled in mid-call; it may be billed, so its bound stays recorded
            this.breaker.release(this.permit)
            self._end(course, this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise
        finally:
            health.end(provider.id)

    def _conclude(self, course: Course, this: _Try, exchange: Exchange) -> Served | None:
        this.attempt.status = exchange.status or None
        if exchange.fault is not None:
            failure = self._faulted(this, exchange)
        elif 200 <= exchange.status < 300:
            answered = self._answered(course.request, this, exchange)
            if isinstance(answered, Served):
                self._end(course, this)
                return answered
            failure = answered
        else:
            failure = self._refused(course, this, exchange)
        name = this.candidate.provider.name
        failure = msgspec.structs.replace(failure, message=self._redact(f"Provider {name}: {failure.message}"))
        self._end(course, this, error=failure.message)
        course.failed(failure)
        return None

    def _end(self, course: Course, this: _Try, error: str | None = None) -> None:
        this.attempt.error = error
        this.attempt.latency_ms = int((self._pace.clock() - this.started) * 1000)
        self._recording.outcome(course.record, this.attempt)

    def _faulted(self, this: _Try, exchange: Exchange) -> Failure:
        """No response: a breaker's failure, unless it was ours or had less time than the provider's own timeout."""
        if exchange.fault == "not_sent":
            this.attempt.sent = False
            self._recording.bought_nothing(this.attempt)
            this.attempt.limit_tokens = self._admission.never_sent(this.reservation)
        else:
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        if exchange.is_ours or (exchange.fault == "timeout" and not this.full_timeout):
            this.breaker.release(this.permit)
        else:
            this.breaker.fail(this.permit)
        return Failure(exchange.message, sent=this.attempt.sent)

    def _refused(self, course: Course, this: _Try, exchange: Exchange) -> Failure:
        """A status that is no success: bought nothing; what follows depends on whose fault it is."""
        provider, said_status = this.candidate.provider, exchange.status
        adapter = self._adapters[provider.kind]
        exchange = adapter.interpret(exchange)
        status = exchange.status
        self._recording.bought_nothing(this.attempt)
        this.attempt.limit_tokens = self._admission.used(this.reservation, 0)
        if status >= 500 or status < 400:
            this.breaker.fail(this.permit)
        else:
            this.breaker.release(this.permit)
        if status == 429:
            self._health.rest(provider.id, exchange.retry_after_s, "rate_limited")
            rest = self._health.resting(provider.id)
            course.passed_over(rest[0] if rest else 0.0, limited=True)
        elif status in KEY_REFUSED:
            self._health.rest(provider.id, None, "refused")
            self._log("provider refused its key", level="error", provider=provider.name, status=said_status)
        # Redacted before it is cut: the cut must not leave half a key, which looks like none.
        said = self._redact(adapter.decode_error(exchange.body))[:SAID_CHARACTERS]
        return Failure(
            f"answered {said_status}: {said}" if said else f"answered {said_status}",
            final=status in CALLERS_FAULT,
            limited=status == 429,
            retry_on_same=status not in NO_RETRY_ON_SAME,
            retry_after_s=exchange.retry_after_s or 0.0,
        )

    def _answered(self, request: Request, this: _Try, exchange: Exchange) -> Served | Failure:
        """A success status: served, unless its content is not what the dialect or JSON mode promises."""
        provider, attempt = this.candidate.provider, this.attempt
        try:
            reply = self._adapters[provider.kind].decode(exchange.body)
        except Malformed as error:
            this.breaker.fail(this.permit)
            attempt.limit_tokens = self._admission.unknown(this.reservation)
            return Failure(str(error))
        this.breaker.succeed(this.permit)
        if reply.usage_estimated:
            usage = msgspec.structs.replace(reply.usage, input_tokens=request.estimated_input_tokens())
            reply = msgspec.structs.replace(reply, usage=usage)
        attempt.upstream_model, attempt.upstream_request_id = reply.upstream_model, reply.upstream_request_id
        names = f"{reply.upstream_model} {reply.upstream_request_id}"
        if self._redact(names) != names:
            attempt.upstream_model = attempt.upstream_request_id = None
        attempt.finish_reason = reply.finish_reason
        self._recording.bought(attempt, reply)
        used = reply.usage.input_tokens + reply.usage.output_tokens
        attempt.limit_tokens = self._admission.used(this.reservation, used)
        if request.json_mode and reply.finish_reason != "length":
            content = json_text(reply.content)
            if content is None:
                return Failure("JSON was asked for and the content is none")
            if content != reply.content:
                reply = msgspec.structs.replace(reply, content=content)
        return Served(reply, provider.name, this.candidate.model, attempt.cost_nanos, this.candidate.cache_part)
