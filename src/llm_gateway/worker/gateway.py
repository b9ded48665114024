"""Run a request through the pipeline: plan, cache lookup, upstream attempts, usage record, cache write.

    1 plan      choose the providers to try, in order             routing/route.py (no I/O)
    2 look up   return a cached answer, or wait for an identical request in flight
                                                                  pipeline/caching.py
    3 try       per candidate: translate → breaker → admit → intent → send → translate back → outcome; wait if all
                are at a rate limit                               pipeline/failover.py, pipeline/attempt.py,
                                                                  pipeline/translation.py, pipeline/waiting_line.py
    4 settle    make the usage record durable, before the answer is returned
                                                                  pipeline/usage_recorder.py
    5 keep      cache the answer                                  pipeline/caching.py

A streamed request takes the same steps. Its stream is returned in the middle of step 3, once its content begins; the
relay then runs steps 4 and 5 at its end (pipeline/relay.py). Authentication comes before these steps
(gate/authentication.py); an endpoint decodes the request before them and encodes the answer after them
(worker/endpoints/). No step reads or writes the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from llm_gateway.domain.catalog import Provider, Snapshot
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.rate_limits import WindowState
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.request import Request
from llm_gateway.domain.service_key import KeyRights
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.error_format.rate_limit_headers import rate_limit_headers
from llm_gateway.errors import GatewayError, InternalError
from llm_gateway.routing.restricted_plan import restrict_plan
from llm_gateway.routing.route import route
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.caching import Caching, Lookup
from llm_gateway.worker.pipeline.failover import Failover
from llm_gateway.worker.pipeline.key_limits import KeyLimits
from llm_gateway.worker.pipeline.relay import Relay
from llm_gateway.worker.pipeline.usage_recorder import CancelledAndRecorded, UsageRecorder

T = TypeVar("T")


class Gateway:
    """The pipeline of LLM calls; each call uses one immutable snapshot of the configuration throughout.

    `limits` returns what is left of a provider's rate limits for a model. `key_limits` are those of service keys, and
    `budgets` are held by the attempts of `failover`.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        caching: Caching,
        failover: Failover,
        recorder: UsageRecorder,
        limits: Callable[[Provider, str], WindowState],
        key_limits: KeyLimits | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._caching = caching
        self._failover = failover
        self._recorder = recorder
        self._limits = limits
        self._key_limits = key_limits
        self._budgets = budgets

    def generate(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """Return the whole answer to one request; its usage record is durable by then.

        Raises:
            GatewayError: the error to send to the client; its usage record is written.
        """
        return self._line(request, self._serve)

    def stream(self, request: Request) -> Coroutine[Any, Any, Relay | Answer]:
        """Return the relay of a stream whose content has begun, or a whole answer if it was cached or not streamed.

        Run the relay to its end, or call its `drop`: both write the usage record.

        Raises:
            GatewayError: the error to send to the client; its usage record is written.
        """
        return self._line(request, self._open)

    async def _line(
        self, request: Request, serve: Callable[[Request, Plan, Lookup, UsageRecord], Awaitable[T]]
    ) -> T | Answer:
        record = self._recorder.start(request)
        plan: Plan | None = None
        try:
            plan = route(request, self._snapshot())
            if request.key is not None and request.key.rights is not None:
                plan = await self._restricted(request, plan, request.key.rights)
            record.override_id, record.route = plan.override_id, plan.reason
            if self._budgets is not None:
                self._budgets.limit_output(request, plan)
            lookup = await self._caching.lookup(request, plan)
            record.cache = lookup.status
            if lookup.served is not None:
                route_taken = plan.route_to(lookup.served.provider)
                hit = self._recorder.settle_hit(record, request.started, lookup.served, route_taken)
                hit.window = self._window(plan, hit.provider)
                return hit
            return await serve(request, plan, lookup, record)
        except GatewayError as error:
            if error.budget is not None and self._budgets is not None:
                self._budgets.note_refusal(record.key_name, error)
            await self._recorder.settle_error(record, request.started, error)
            error.is_recorded = True  # the record writes the log line; the error response must not write another
            if not error.headers:  # identical requests that waited for one of them share its error
                window = self._window(plan, record.provider or error.limited_by)
                error.headers = rate_limit_headers(window, error.queued_ms)
            raise
        except asyncio.CancelledError:
            self._recorder.settle_cancelled(record, request.started)
            raise CancelledAndRecorded from None
        except Exception as error:  # edge: a request that met a defect of the gateway needs a usage record too
            await self._recorder.settle_error(record, request.started, InternalError(str(error)))
            raise

    async def _serve(self, request: Request, plan: Plan, lookup: Lookup, record: UsageRecord) -> Answer:
        """Run steps 3 to 5, and tell the identical requests that wait for this call how it ended."""
        try:
            served = await self._failover.run(request, plan, record)
            route_taken = _route_taken(plan, record, served.provider)
            accounts = None if self._budgets is None else self._budgets.accounts_of(record)
            answer = await self._recorder.settle_success(record, request.started, served, route_taken)
        except BaseException as error:  # edge: waiting requests must be woken by any end, cancellation included
            self._caching.abandon(lookup, error)
            raise
        # Only now: an answer whose record could not be made durable must not be served from the cache.
        await self._caching.keep(lookup, served)
        answer.window = self._window(plan, answer.provider)
        if accounts is not None and self._budgets is not None:
            answer.budget = self._budgets.headers(accounts)
        return answer

    async def _open(self, request: Request, plan: Plan, lookup: Lookup, record: UsageRecord) -> Relay | Answer:
        """Run step 3 until content begins; the relay that is returned runs steps 4 and 5 at its end."""
        opened = await self._failover.open(request, plan, record)
        route_taken = _route_taken(plan, record, opened.provider)
        accounts = None if self._budgets is None else self._budgets.accounts_of(record)
        budget = [] if self._budgets is None else self._budgets.headers(accounts)
        settled = partial(self._settle, lookup, record, request.started, route_taken)
        if isinstance(opened, Success):
            answer = await settled(opened)
            answer.window = self._window(plan, answer.provider)
            answer.budget = budget
            return answer
        self._recorder.note_first_token(record, request.started)
        relay = Relay(
            opened,
            route=route_taken,
            settled=settled,
            failed=partial(self._recorder.settle_error, record, request.started),
            gone=partial(self._recorder.settle_cancelled, record, request.started),
        )
        relay.window = self._window(plan, opened.provider)
        relay.budget = budget
        return relay

    async def _restricted(self, request: Request, plan: Plan, rights: KeyRights) -> Plan:
        """Return the plan as the request's key allows it, and count the request against the key's limits.

        Raises:
            ModelNotAllowed: the key may use none of its models.
            RequestNotAllowed: the request could cost more than the key allows.
            RateLimited, RequestExceedsLimit: the key is at its limit, or the request is larger than it.
        """
        plan = restrict_plan(plan, request, rights)
        if rights.limits and self._key_limits is not None:
            waiting = self._key_limits.admit(request, rights.limits)
            if waiting is not None:
                await waiting
        return plan

    def _window(self, plan: Plan | None, provider: str | None) -> WindowState | None:
        """Return what is left of the limits of a provider of the plan, for the client."""
        if plan is not None:
            for tier in plan.tiers:
                for candidate in tier:
                    if candidate.provider.name == provider:
                        return self._limits(candidate.provider, candidate.model)
        return None

    async def _settle(
        self, lookup: Lookup, record: UsageRecord, started: float, route_taken: bytes, served: Success
    ) -> Answer:
        answer = await self._recorder.settle_success(record, started, served, route_taken)
        await self._caching.keep(lookup, served)
        return answer


def _route_taken(plan: Plan, record: UsageRecord, provider: str) -> bytes:
    return plan.route_to(provider, record.attempts[0].provider if record.attempts else None)
