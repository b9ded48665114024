"""Write usage records to the journal: an intent before each attempt, its outcome, and a settle at the end.

A record is started once a request is authenticated, and settled however the request ends. `journal/shipper.py` moves
records from the journal to the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from llm_gateway import wall_clock
from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.reply import Answer, Reply
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.upstream_call import Success
from llm_gateway.domain.usage import (
    RECORD_VERSION,
    AttemptRecord,
    CostStatus,
    Outcome,
    Price,
    Usage,
    UsageRecord,
    add_usage,
    cost,
    encode_record,
    worst_status,
)
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.errors import (
    BudgetExceeded,
    BudgetReserved,
    BudgetUnavailable,
    GatewayError,
    NoProvider,
    RateLimited,
    RequestExceedsLimit,
)
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.protocols.reported_values import requested_tier
from llm_gateway.providers.tier_prices import quote

CLIENT_CLOSED = 499
"""The status recorded for a request that was cancelled before it was answered."""


class CancelledAndRecorded(asyncio.CancelledError):
    """A request was cancelled, and its usage record and its log line are written."""


class UsageRecorder:
    """The writer of every request's usage record.

    Order of the calls for one record: `start`; for each attempt `new_attempt` and `write_intent`, then `set_cost` or
    `set_free`, then `write_outcome`; at the end one of `settle_success`, `settle_hit`, `settle_error` or
    `settle_cancelled`. `started` is that of the request: latency is not measured by the time of day, which can be set.

    Args:
        journal: where records are written.
        instance: the name of this gateway process, in every record.
        list_price: return the price for a provider's `price_vendor` and the model name that it reported. Called when
            the configured model name has no price.
        observe: called with every settled record (metrics, the request's log line).
        release: called first with every settled record of a key that was made over the API.
        charge: called with every settled record that has an attempt with budgets' accounts, just before it is
            journalled.
        clock: monotonic time in seconds, that of `Request.started`.
    """

    def __init__(
        self,
        journal: JournalWriter,
        *,
        instance: str,
        list_price: Callable[[str | None, str], Price | None],
        observe: Callable[[UsageRecord], None],
        release: Callable[[UsageRecord], None] = lambda _record: None,
        charge: Callable[[UsageRecord], None] = lambda _record: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._instance = instance
        self._list_price = list_price
        self._observe = observe
        self._release = release
        self._charge = charge
        self._clock = clock

    def start(self, request: Request) -> UsageRecord:
        """Return a new record of a request that has just arrived; nothing is written yet."""
        key = request.key
        return UsageRecord(
            id=request.id,
            at_ms=request.at_ms,
            instance=self._instance,
            key_name=request.key_name,
            user_id=request.user_id,
            service=request.service,
            task_type=request.task_type,
            surface=request.surface,
            version=RECORD_VERSION,
            client_request_id=request.client_request_id,
            session=request.session,
            agent=request.agent,
            tags=request.tags,
            stream=request.stream,
            requested_model=request.requested_model,
            key_id=None if key is None else key.id,
            team_id=None if key is None else key.team_id,
            traceparent=None if request.trace is None else request.trace.traceparent,
        )

    @staticmethod
    def new_attempt(request: Request, candidate: Candidate, reserved: int, why: str | None = None) -> AttemptRecord:
        """Return an attempt that is about to be sent, with the most it can cost as its bound, and `why` it is made."""
        provider = candidate.provider
        bound = Usage(input_tokens=request.estimated_input_tokens(), output_tokens=request.max_tokens)
        attempt = AttemptRecord(
            id=new_id(),
            provider_id=provider.id,
            provider=provider.name,
            kind=provider.kind,
            model=candidate.model,
            started_ms=wall_clock.now_ms(),
            reserved_tokens=reserved,
            limit_tokens=reserved,
            usage=bound,
            price=candidate.price,
            why=why,
        )
        _price(attempt, "estimated")
        if not request.client_request.is_canonical:
            _price_requested_tier(attempt, request.client_request, provider)
        return attempt

    async def write_intent(self, record: UsageRecord, attempt: AttemptRecord) -> None:
        """Journal that an attempt is about to be sent, and add it to the record.

        Raises:
            JournalUnavailable: the intent cannot be written, so the attempt must not be sent.
        """
        # The entry holds this attempt only: earlier ones have entries of their own.
        earlier, record.attempts = record.attempts, [attempt]
        payload = encode_record(record)
        record.attempts = earlier
        await self._journal.intent(record.id, payload)
        record.attempts.append(attempt)

    def write_outcome(self, record: UsageRecord, attempt: AttemptRecord) -> None:
        """Journal how a failed attempt ended. Set its fields before.

        A successful attempt gets no entry of its own: the request's settle entry, written in the same turn of the
        event loop, holds its outcome.
        """
        if attempt.error is not None:
            self._journal.outcome(record.id, encode_record(attempt))

    def set_cost(self, provider: Provider, attempt: AttemptRecord, reply: Reply) -> None:
        """Set a reply's cost, by the price of the configured model, or of the model name that the provider reported.

        The tier that served the reply, and units beside its tokens, change the cost.
        """
        attempt.usage = reply.usage
        if attempt.service_tier is not None:  # the intent has the price of the requested tier
            attempt.price = provider.price_by_model.get(attempt.model)
        if attempt.price is None and reply.upstream_model is not None:
            attempt.price = self._list_price(provider.price_vendor, reply.upstream_model)
        attempt.service_tier, attempt.units = reply.service_tier, reply.units
        _price(attempt, "estimated" if reply.usage_estimated else "exact")
        if (reply.service_tier is not None or reply.units is not None) and attempt.price is not None:
            quoted = quote(attempt.price, provider.price_vendor, attempt)
            attempt.price = quoted.price
            attempt.cost_nanos, attempt.cost_status = quoted.cost_of(attempt)

    @staticmethod
    def set_free(attempt: AttemptRecord) -> None:
        """Set an attempt's cost to 0: it was never sent, or the provider refused it."""
        attempt.usage = Usage()
        attempt.service_tier = None
        attempt.usage_estimated = False
        attempt.cost_nanos = 0
        attempt.cost_status = "exact"

    def note_first_token(self, record: UsageRecord, started: float) -> None:
        """Set the milliseconds from the request's arrival to the first content of its stream."""
        record.first_token_ms = int((self._clock() - started) * 1000)

    async def settle_success(self, record: UsageRecord, started: float, served: Success, route: bytes) -> Answer:
        """Settle the record as `ok`; it is durable when this returns. `route` says why this provider answered."""
        record.status = 200
        record.outcome = "ok"
        record.provider, record.model = served.provider, served.model
        self._close(record, started)
        await self._journal.durable()
        return Answer(
            reply=served.reply,
            provider=served.provider,
            model=served.model,
            cost_nanos=record.cost_nanos,
            cost_status=record.cost_status,
            route=route,
            queued_ms=served.queued_ms,
        )

    def settle_hit(self, record: UsageRecord, started: float, served: Success, route: bytes) -> Answer:
        """Settle the record as `cached`: nothing was billed, so the caller need not wait until it is durable.

        `route` is as for `settle_success`.
        """
        reply = served.reply
        record.status = 200
        record.outcome, record.cache = "cached", "hit"
        record.provider, record.model = served.provider, served.model
        record.saved_input_tokens = reply.usage.input_tokens
        record.saved_output_tokens = reply.usage.output_tokens
        record.saved_cost_nanos = served.cost_nanos
        self._close(record, started)
        return Answer(
            reply=reply,
            provider=served.provider,
            model=served.model,
            cost_nanos=0,
            cost_status="exact",
            cached=True,
            route=route,
        )

    async def settle_error(self, record: UsageRecord, started: float, error: GatewayError) -> None:
        """Settle the record with an error; durable when this returns if anything may have been billed.

        A record that was settled already stays as it is: its answer could not be made durable, but it is billed.
        """
        if record.status:
            return
        record.status = error.status
        record.error_code = error.code
        record.outcome = outcome_of(error)
        if error.budget is not None:
            record.refused_by = error.budget.id
        if record.attempts:
            record.provider, record.model = record.attempts[-1].provider, record.attempts[-1].model
        self._close(record, started)
        if record.attempts:
            await self._journal.durable()

    def settle_cancelled(self, record: UsageRecord, started: float) -> None:
        """Settle the record as cancelled; one that was settled already stays as it is."""
        if record.status:
            return
        record.status = CLIENT_CLOSED
        record.error_code = "cancelled"
        record.outcome = "cancelled"
        if record.attempts:
            record.provider, record.model = record.attempts[-1].provider, record.attempts[-1].model
        self._close(record, started)

    def _close(self, record: UsageRecord, started: float) -> None:
        attempts, is_charged = record.attempts, False
        if len(attempts) == 1:  # nearly always
            only = attempts[0]
            record.usage, record.cost_nanos, record.cost_status = only.usage, only.cost_nanos, only.cost_status
            is_charged = bool(only.accounts)
        elif attempts:
            for attempt in attempts:
                record.usage = add_usage(record.usage, attempt.usage)
                record.cost_nanos += attempt.cost_nanos
                is_charged = is_charged or bool(attempt.accounts)
            record.cost_status = worst_status(attempt.cost_status for attempt in attempts)
        record.latency_ms = int((self._clock() - started) * 1000)
        if record.key_id is not None:
            self._release(record)
        if is_charged:
            self._charge(record)
        self._journal.settle(record.id, encode_record(record))
        self._observe(record)


def _price(attempt: AttemptRecord, status: CostStatus) -> None:
    attempt.usage_estimated = status == "estimated"
    if attempt.price is None:
        attempt.cost_nanos, attempt.cost_status = 0, "unpriced"
    else:
        attempt.cost_nanos, attempt.cost_status = cost(attempt.price, attempt.usage), status


def _price_requested_tier(attempt: AttemptRecord, client_request: ClientRequest, provider: Provider) -> None:
    """Raise an attempt's bound to the price of the tier that the request asks for, unless that is lower.

    A lower tier keeps the standard price: the provider may serve the request at another one. Of a translated request
    only `service_tier` counts: Anthropic's `speed` and `inference_geo` are dropped.
    """
    tier = PROTOCOLS[client_request.protocol].requested_tier(client_request.document)
    if tier is not None and client_request.protocol not in provider.codecs:
        tier = requested_tier(client_request.conversation.service_tier)
    if tier is None or attempt.price is None:
        return
    attempt.service_tier = tier
    quoted = quote(attempt.price, provider.price_vendor, attempt)
    nanos, _ = quoted.cost_of(attempt)
    if nanos > attempt.cost_nanos:
        attempt.price, attempt.cost_nanos = quoted.price, nanos
    else:
        attempt.service_tier = None


def outcome_of(error: GatewayError) -> Outcome:
    """Return the outcome of a request that ends with this error."""
    if isinstance(error, RateLimited | RequestExceedsLimit):
        return "rate_limited"
    if isinstance(error, BudgetExceeded | BudgetReserved | BudgetUnavailable):
        return "refused_budget"
    if isinstance(error, NoProvider):
        return "no_provider"
    return "failed"
