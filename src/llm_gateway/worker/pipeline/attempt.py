"""One attempt to get an answer from one provider: journal the intent, send, decode, record the outcome.

An attempt holds a permit (availability) and a reservation (rate limit), and releases both however it ends. A whole
answer is concluded at once. A stream is returned when its content begins, as an `OpenStream`; the relay that reads it
concludes the attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.client_presence import ClientDisconnected
from llm_gateway.domain.conversation import CONTENT
from llm_gateway.domain.output_estimate import with_estimates
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.upstream_call import Success, UpstreamCall, UpstreamResult
from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.errors import ProviderFailed
from llm_gateway.json_outline import SMALL_BYTES
from llm_gateway.limiter.base import Reservation
from llm_gateway.protocols.contract import Malformed, UpstreamError
from llm_gateway.providers.decoding import json_text
from llm_gateway.providers.dialect import Dialect
from llm_gateway.providers.reported_errors import error_in_answer
from llm_gateway.upstream.pool import CancelledBeforeSend
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt_start import begin_attempt
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability
from llm_gateway.worker.pipeline.availability.rate_limit_gate import MAX_RETRY_AFTER_S
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.open_stream import AttemptCallbacks, OpenStream
from llm_gateway.worker.pipeline.refusals import Refusal, read_refusal, read_reported_error, report_refusal
from llm_gateway.worker.pipeline.routing_state import Failure, RoutingState
from llm_gateway.worker.pipeline.translation import Translation, reply_of
from llm_gateway.worker.pipeline.transport import Transport
from llm_gateway.worker.pipeline.upstream_events import MAX_EVENT_GAP_S, StreamCut, UpstreamEvents
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder


class _Try(msgspec.Struct, eq=False):
    """An attempt under way: its permit, its reservation, and its usage record.

    `full_timeout`: the request's deadline left it the provider's whole timeout. `started` is in `clock` seconds.
    """

    state: RoutingState
    candidate: Candidate
    call: UpstreamCall
    permit: Permit
    reservation: Reservation
    attempt: AttemptRecord
    full_timeout: bool = True
    started: float = 0.0


class AttemptDependencies(NamedTuple):
    """Dependencies of `Attempts`.

    `dialects` are keyed by kind; `redact` removes secrets from providers' messages; `clock` gives seconds of
    `time.monotonic()`. Without `budgets` nothing is held.
    """

    availability: ProviderAvailability
    admission: Admission
    transport: Transport
    recorder: UsageRecorder
    dialects: Mapping[str, Dialect]
    translation: Translation
    redact: Callable[[str], str]
    clock: Callable[[], float] = time.monotonic
    budgets: Budgets | None = None


class Attempts:
    """The attempts of all requests: one call of `make` each."""

    def __init__(self, dependencies: AttemptDependencies) -> None:
        self._availability = dependencies.availability
        self._admission = dependencies.admission
        self._transport = dependencies.transport
        self._recorder = dependencies.recorder
        self._dialects = dependencies.dialects
        self._translation = dependencies.translation
        self._redact = dependencies.redact
        self._clock = dependencies.clock
        self._budgets = dependencies.budgets

    async def make(
        self,
        state: RoutingState,
        candidate: Candidate,
        call: UpstreamCall,
        permit: Permit,
        reservation: Reservation,
    ) -> Success | OpenStream | None:
        """Make one attempt, and release `permit` and `reservation` however it ends.

        Returns a whole answer, a stream whose content has begun, or None if the attempt failed or a budget has no room
        for it; that is then noted in `state`.
        """
        provider_id = candidate.provider.id
        self._availability.begin(provider_id)
        stream = None
        try:
            try:
                attempt = await begin_attempt(self._recorder, self._budgets, state, candidate, reservation.tokens)
            except BaseException:  # edge: nothing was sent, so the reservation and the permit are released
                self._admission.never_sent(reservation)
                permit.release()
                raise
            if attempt is None:
                self._admission.never_sent(reservation)
                permit.release()
                return None
            this = _Try(state, candidate, call, permit, reservation, attempt)
            came = await self._send(this)
            if isinstance(came, UpstreamResult):
                return self._conclude(this, came)
            stream = await self._commit(this, came)
            return stream
        except Exception:  # edge: a defect while reading the answer; an unreleased permit would block its breaker
            permit.release()
            raise
        finally:
            if stream is None:  # a stream stays in flight until the relay concludes it
                self._availability.end(provider_id)

    async def _send(self, this: _Try) -> UpstreamResult | UpstreamEvents:
        request, provider = this.state.request, this.candidate.provider
        if not this.permit.holds():
            # Other calls failed while the intent was written, and opened the breaker or paused the account.
            return UpstreamResult(fault="not_sent", message="Not called, since it became unavailable", is_ours=True)
        this.started = self._clock()
        remaining = request.deadline - this.started
        this.full_timeout = provider.timeout_s <= remaining
        send = self._transport.open if request.stream else self._transport.post
        try:
            timeout_s = provider.timeout_s if this.full_timeout else remaining
            call, held = this.call, request.client_request.held
            if held is not None:
                call = msgspec.structs.replace(call, pieces=held.pieces(call.body))
            if provider.trace and request.trace is not None:
                lines = call.header_lines + request.trace.header_lines(this.attempt.id)
                call = msgspec.structs.replace(call, header_lines=lines)
            came = await send(provider, call, timeout_s, request.presence.check)
            if isinstance(came, UpstreamResult) and len(came.body) > SMALL_BYTES:
                came = await self._translation.outlined(request.client_request, call, came)
            return came
        except BaseException as error:  # edge: cancelled in mid-call; it may be billed, so its upper bound is kept
            this.permit.release()
            if isinstance(error, CancelledBeforeSend | ClientDisconnected):
                self._set_not_sent(this)
            else:
                self._admission.unknown(this.reservation)
            self._end(this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise

    def _set_not_sent(self, this: _Try) -> None:
        this.attempt.sent = False
        self._recorder.set_free(this.attempt)
        this.attempt.limit_tokens = self._admission.never_sent(this.reservation)

    # A whole answer

    def _conclude(self, this: _Try, result: UpstreamResult) -> Success | None:
        if result.limits is not None:
            self._admission.reported(this.reservation, result.limits)
        this.attempt.status = result.status or None
        if result.fault is not None:
            failure = self._conclude_fault(this, result)
        elif 200 <= result.status < 300:
            answered = self._conclude_answer(this, result)
            if isinstance(answered, Success):
                self._end(this)
                return answered
            failure = answered
        else:
            read = read_refusal(self._dialect(this), this.candidate, result, self._redact)
            failure = self._conclude_refusal(this, read)
        self._failed(this, failure)
        return None

    def _message(self, this: _Try, message: str) -> str:
        """Return a failure's message for clients and the log, with the provider's name and without secrets."""
        return self._redact(f"Provider {this.candidate.provider.name}: {message}")

    def _failed(self, this: _Try, failure: Failure) -> None:
        self._end(this, error=failure.message)
        this.state.note_failure(failure, this.candidate)

    def _end(self, this: _Try, error: str | None = None) -> None:
        this.attempt.error = error
        this.attempt.latency_ms = int((self._clock() - this.started) * 1000)
        self._recorder.write_outcome(this.state.record, this.attempt)

    def _conclude_fault(self, this: _Try, result: UpstreamResult) -> Failure:
        """Conclude an attempt without a complete response.

        It counts as the provider's failure, unless the gateway caused it or the request's deadline cut the time short.
        """
        if result.fault == "not_sent":
            self._set_not_sent(this)
        else:
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        message = self._message(this, result.message)
        if result.is_ours or (result.fault == "timeout" and not this.full_timeout):
            this.permit.release()
        else:
            this.permit.fail(message)
        return Failure(message, sent=this.attempt.sent, cause=result.fault or "failed")

    def _conclude_refusal(self, this: _Try, read: Refusal) -> Failure:
        """Conclude an attempt that got an error before any content: not billed, unless a proxy timed out."""
        if read.may_be_billed:  # the upper bound of its cost is kept
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        else:
            self._recorder.set_free(this.attempt)
            this.attempt.limit_tokens = self._admission.used(this.reservation, 0)
        now = self._clock()
        report_refusal(read, this.permit, this.state, this.candidate, this.call, now)
        if read.failure.limited:
            retry_after_s = min(read.failure.retry_after_s, MAX_RETRY_AFTER_S)
            this.state.answered_429[this.candidate.cache_part] = now + retry_after_s
        if read.failure.too_long:
            provider_id, model = this.candidate.provider.id, this.candidate.model
            input_tokens = this.state.request.estimated_input_tokens()
            self._availability.context_limits.learn(provider_id, model, input_tokens, this.reservation.tokens)
        return read.failure

    def _dialect(self, this: _Try) -> Dialect:
        return self._dialects[this.candidate.provider.kind]

    def _conclude_answer(self, this: _Try, result: UpstreamResult) -> Success | Failure:
        """Conclude an attempt that got a 2xx status: a failure if the body is no answer, or not JSON in JSON mode."""
        request, provider = this.state.request, this.candidate.provider
        try:
            reply = self._translation.reply(request.client_request, provider, this.call, result.body, result.outline)
        except Malformed as error:
            reported = error_in_answer(result.body)
            if reported is not None:
                read = read_reported_error(self._dialect(this), this.candidate, reported, self._redact)
                return self._conclude_refusal(this, read)
            message = self._message(this, str(error))
            this.permit.fail(message)
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
            return Failure(message, cause="malformed")
        this.permit.accepted()
        reply = self._record_reply(this, reply)
        if request.json_mode and reply.finish_reason != "length":
            content = json_text(reply.content)
            if content is None:
                message = self._message(this, "The request requires JSON, and the answer is not JSON")
                return Failure(message, cause="not_json")
            if content != reply.content:
                reply = msgspec.structs.replace(reply, content=content)
        return self._success(this, reply)

    def _record_reply(self, this: _Try, reply: Reply) -> Reply:
        """Record a complete reply, which is billed: availability, model name, cost, rate limit.

        Returns the reply, with its input tokens estimated if the provider did not count them.
        """
        attempt = this.attempt
        this.permit.succeed()
        reply = with_estimates(reply, this.state.request, this.candidate.model)
        attempt.upstream_model, attempt.upstream_request_id = reply.upstream_model, reply.upstream_request_id
        names = f"{reply.upstream_model} {reply.upstream_request_id}"
        if self._redact(names) != names:  # a provider echoed a secret in them
            attempt.upstream_model = attempt.upstream_request_id = None
        attempt.finish_reason = reply.finish_reason
        self._recorder.set_cost(this.candidate.provider, attempt, reply)
        used = reply.usage.input_tokens + reply.usage.output_tokens
        attempt.limit_tokens = self._admission.used(this.reservation, used)
        return reply

    @staticmethod
    def _success(this: _Try, reply: Reply) -> Success:
        candidate = this.candidate
        return Success(
            reply,
            candidate.provider.name,
            candidate.model,
            this.attempt.cost_nanos,
            candidate.cache_part,
            this.state.queued_ms,
        )

    # A stream

    async def _commit(self, this: _Try, events: UpstreamEvents) -> OpenStream | None:
        """Read the stream until its content begins, and return it; None if it failed before, which `state` notes.

        The first event must arrive within the provider's timeout, each further one within `MAX_EVENT_GAP_S`.
        """
        request, provider = this.state.request, this.candidate.provider
        this.attempt.status = 200
        if events.limits is not None:
            self._admission.reported(this.reservation, events.limits)
        reader = self._translation.reader(request.client_request, this.call)
        callbacks = AttemptCallbacks(partial(self._stream_served, this), partial(self._stream_cut, this))
        stream = OpenStream(events, reader, this.candidate, this.call, callbacks)
        stream.queued_ms = this.state.queued_ms
        commit_by = min(this.started + provider.timeout_s, request.deadline)
        try:
            while True:
                raw_events = await stream.next(commit_by - self._clock())
                stream.held += raw_events
                if any(isinstance(chunk, CONTENT) for raw_event in raw_events for chunk in raw_event.chunks):
                    break
                if stream.assembler.is_finished:
                    break
                if reader.is_done or not raw_events:
                    raise Malformed("The stream ended before any content")
                # The provider is answering: from here, the limit is the gap between events.
                commit_by = min(self._clock() + MAX_EVENT_GAP_S, request.deadline)
        except (StreamCut, Malformed, UpstreamError) as error:
            events.close()
            self._fail_before_content(this, error)
            return None
        except BaseException as error:  # edge: cancelled, or a defect; the call may be billed
            events.close()
            this.permit.release()
            self._admission.unknown(this.reservation)
            self._end(this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise
        this.permit.accepted()
        return stream

    def _fail_before_content(self, this: _Try, error: StreamCut | Malformed | UpstreamError) -> None:
        if isinstance(error, UpstreamError):
            read = read_reported_error(self._dialect(this), this.candidate, error.error, self._redact)
            self._failed(this, self._conclude_refusal(this, read))
            return
        fault = error.fault if isinstance(error, StreamCut) else "broken"
        message = str(error) if fault == "broken" else "No complete answer in time"
        self._failed(this, self._conclude_fault(this, UpstreamResult(fault=fault, message=message)))

    def _stream_served(self, this: _Try, stream: OpenStream) -> Success:
        """Conclude the attempt of a complete stream."""
        is_text = this.state.request.client_request.is_canonical
        completion = stream.assembler.completion()
        reply = self._record_reply(this, reply_of(completion, dropped=stream.dropped, is_text=is_text))
        if this.state.request.json_mode and json_text(reply.content) != reply.content:
            # It was relayed as it came. A request for a whole answer may not get this text from the cache.
            reply = msgspec.structs.replace(reply, is_cacheable=False)
        self._end(this)
        self._availability.end(this.candidate.provider.id)
        return self._success(this, reply)

    def _stream_cut(self, this: _Try, stream: OpenStream, cause: Exception | str, is_ours: bool) -> ProviderFailed:
        """Conclude the attempt of a stream that ended early; the tokens received so far are billed.

        `is_ours`: the client or the gateway gave it up. Returns the error for the client.
        """
        completion = stream.assembler.completion()
        reply = reply_of(msgspec.structs.replace(completion, usage_estimated=True))
        reply = with_estimates(reply, this.state.request, this.candidate.model)
        self._recorder.set_cost(this.candidate.provider, this.attempt, reply)
        this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        message = self._message(this, str(cause))
        if is_ours:
            this.permit.release()
        else:
            this.permit.fail(message)
        self._end(this, error=message)
        self._availability.end(this.candidate.provider.id)
        return self._cut_error(this, cause, message)

    def _cut_error(self, this: _Try, cause: Exception | str, message: str) -> ProviderFailed:
        """Return the error of a stream that broke off; on vendor-compatible APIs it has the provider's own words."""
        if isinstance(cause, UpstreamError) and not this.state.request.client_request.is_canonical:
            read = read_reported_error(self._dialect(this), this.candidate, cause.error, self._redact)
            if (reported := read.failure.reported) is not None:
                error = ProviderFailed(reported.message)
                error.provider, error.reported = this.candidate.provider.name, reported
                return error
        return ProviderFailed(message)
