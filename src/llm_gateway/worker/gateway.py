"""THE STRAIGHT LINE: what happens to a request, in order, on one screen.

    1 plan      what to try, in what order                       routing/route.py (pure)
    2 look      known already, or in flight already               pipeline/caching.py
    3 try       per candidate: translate → breaker → admit → intent → send → translate back → outcome
                                                                  pipeline/failover.py, pipeline/attempt.py,
                                                                  pipeline/translation.py
    4 settle    the usage record, durable before the answer       pipeline/usage_recorder.py
    5 keep      for the next who asks the same                    pipeline/caching.py

A stream is the same line: it is handed out at its commit point, in the middle of step 3 (pipeline/relay.py). The gate
stands before the line (`gate/authentication.py`), a surface decodes before and encodes after it. The database is never
on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import GatewayError, InternalError
from llm_gateway.routing.route import route
from llm_gateway.worker.pipeline.caching import Caching, Lookup
from llm_gateway.worker.pipeline.failover import Failover
from llm_gateway.worker.pipeline.relay import Relay
from llm_gateway.worker.pipeline.usage_recorder import CancelledAndRecorded, UsageRecorder

T = TypeVar("T")


class Gateway:
    """Serves calls over one immutable snapshot of the configuration each."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], caching: Caching, failover: Failover, recorder: UsageRecorder
    ) -> None:
        self._snapshot = snapshot
        self._caching = caching
        self._failover = failover
        self._recorder = recorder

    async def generate(self, request: Request) -> Answer:
        """The answer to one request, with its usage record durable.

        Raises:
            GatewayError: what the caller is told; recorded too.
        """
        return await self._line(request, self._serve)

    async def stream(self, request: Request) -> Relay | Answer:
        """The answer as it comes, from its commit point on; whole, if it was kept or comes so.

        Raises:
            GatewayError: what the caller is told; recorded too.
        """
        return await self._line(request, self._open)

    async def _line(
        self, request: Request, serve: Callable[[Request, Plan, Lookup, UsageRecord], Awaitable[T]]
    ) -> T | Answer:
        record = self._recorder.start(request)
        try:
            plan = route(request, self._snapshot())
            record.override_id = plan.override_id
            lookup = await self._caching.lookup(request, plan)
            record.cache = lookup.status
            if lookup.served is not None:
                return self._recorder.settle_hit(record, lookup.served, plan.route_to(lookup.served.provider))
            return await serve(request, plan, lookup, record)
        except GatewayError as error:
            await self._recorder.settle_error(record, error)
            error.is_recorded = True
            raise
        except asyncio.CancelledError:
            self._recorder.settle_cancelled(record)
            raise CancelledAndRecorded from None
        except Exception as error:  # edge: a defect of ours is still a request that was made, and recorded
            await self._recorder.settle_error(record, InternalError(str(error)))
            raise

    async def _serve(self, request: Request, plan: Plan, lookup: Lookup, record: UsageRecord) -> Answer:
        """Steps 3 to 5; whoever waits for this call hears how it ended, too."""
        try:
            served = await self._failover.run(request, plan, record)
            route_taken = _route_taken(plan, record, served.provider)
            answer = await self._recorder.settle_success(record, served, route_taken)
        except BaseException as error:  # edge: those who wait must hear of any end, cancellation included
            self._caching.abandon(lookup, error)
            raise
        await self._caching.keep(lookup, served)
        return answer

    async def _open(self, request: Request, plan: Plan, lookup: Lookup, record: UsageRecord) -> Relay | Answer:
        """Step 3 to the commit point; steps 4 and 5 are the relay's, at its end."""
        opened = await self._failover.open(request, plan, record)
        route_taken = _route_taken(plan, record, opened.provider)
        settled = partial(self._settle, lookup, record, route_taken)
        if isinstance(opened, Success):
            return await settled(opened)
        self._recorder.note_first_token(record)
        return Relay(
            opened,
            route=route_taken,
            settled=settled,
            failed=partial(self._recorder.settle_error, record),
            gone=partial(self._recorder.settle_cancelled, record),
        )

    async def _settle(self, lookup: Lookup, record: UsageRecord, route_taken: bytes, served: Success) -> Answer:
        answer = await self._recorder.settle_success(record, served, route_taken)
        await self._caching.keep(lookup, served)
        return answer


def _route_taken(plan: Plan, record: UsageRecord, provider: str) -> bytes:
    return plan.route_to(provider, record.attempts[0].provider if record.attempts else None)
