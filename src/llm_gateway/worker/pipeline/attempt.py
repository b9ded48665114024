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
from llm_gateway.domain.conversation import CONTENT
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success, UpstreamCall, UpstreamResult
from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.limiter.base import Reservation
from llm_gateway.protocols.contract import Malformed, UpstreamError
from llm_gateway.providers.decoding import json_text
from llm_gateway.providers.dialect import Dialect
from llm_gateway.upstream.pool import CancelledBeforeSend
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.availability import Permit, ProviderAvailability
from llm_gateway.worker.pipeline.open_stream import AttemptCallbacks, OpenStream
from llm_gateway.worker.pipeline.routing_state import Failure, RoutingState
from llm_gateway.worker.pipeline.translation import Translation, reply_of
from llm_gateway.worker.pipeline.transport import Transport
from llm_gateway.worker.pipeline.upstream_events import MAX_EVENT_GAP_S, StreamCut, UpstreamEvents
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder

MAX_PROVIDER_MESSAGE_CHARACTERS = 500
"""Length to which a provider's own error message is cut."""
KEY_REFUSED, LIMITED = 401, 429


class _Try:
    """An attempt under way: its permit, its reservation, and its usage record.

    `full_timeout`: the request's deadline left it the provider's whole timeout. `started` is in `clock` seconds.
    """

    __slots__ = ("attempt", "call", "candidate", "full_timeout", "permit", "reservation", "started", "state")

    def __init__(
        self, state: RoutingState, candidate: Candidate, call: UpstreamCall, permit: Permit, reservation: Reservation
    ) -> None:
        self.state = state
        self.candidate = candidate
        self.call = call
        self.permit = permit
        self.reservation = reservation
        self.attempt: AttemptRecord
        self.full_timeout = True
        self.started = 0.0


class AttemptDependencies(NamedTuple):
    """Dependencies of `Attempts`.

    `dialects` are keyed by kind; `redact` removes secrets from providers' messages; `clock` gives seconds of
    `time.monotonic()`.
    """

    availability: ProviderAvailability
    admission: Admission
    transport: Transport
    recorder: UsageRecorder
    dialects: Mapping[str, Dialect]
    translation: Translation
    redact: Callable[[str], str]
    clock: Callable[[], float] = time.monotonic


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

    async def make(
        self,
        state: RoutingState,
        candidate: Candidate,
        call: UpstreamCall,
        permit: Permit,
        reservation: Reservation,
    ) -> Success | OpenStream | None:
        """Make one attempt, and release `permit` and `reservation` however it ends.

        Returns a whole answer, a stream whose content has begun, or None if the attempt failed; the failure is then
        noted in `state`.
        """
        this = _Try(state, candidate, call, permit, reservation)
        provider_id = candidate.provider.id
        self._availability.begin(provider_id)
        stream = None
        try:
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
        try:
            this.attempt = await self._recorder.write_intent(
                this.state.record, request, this.candidate, this.reservation.tokens
            )
        except BaseException:  # edge: nothing was sent, so the reservation and the permit are released
            self._admission.never_sent(this.reservation)
            this.permit.release()
            raise
        if not this.permit.holds():
            # Other calls failed while the intent was written, and opened the breaker or paused the account.
            return UpstreamResult(fault="not_sent", message="Not called, since it became unavailable", is_ours=True)
        this.started = self._clock()
        remaining = request.deadline - this.started
        this.full_timeout = provider.timeout_s <= remaining
        send = self._transport.open if request.stream else self._transport.post
        try:
            return await send(provider, this.call, min(provider.timeout_s, remaining))
        except BaseException as error:  # edge: cancelled in mid-call; it may be billed, so its upper bound is kept
            this.permit.release()
            if isinstance(error, CancelledBeforeSend):
                self._set_not_sent(this)
            self._end(this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise

    def _set_not_sent(self, this: _Try) -> None:
        this.attempt.sent = False
        self._recorder.set_free(this.attempt)
        this.attempt.limit_tokens = self._admission.never_sent(this.reservation)

    # A whole answer

    def _conclude(self, this: _Try, result: UpstreamResult) -> Success | None:
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
            failure = self._conclude_refusal(this, result)
        self._failed(this, failure)
        return None

    def _message(self, this: _Try, message: str) -> str:
        """Return a failure's message for clients and the log, with the provider's name and without secrets."""
        return self._redact(f"Provider {this.candidate.provider.name}: {message}")

    def _failed(self, this: _Try, failure: Failure) -> None:
        self._end(this, error=failure.message)
        this.state.note_failure(failure)

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
        return Failure(message, sent=this.attempt.sent)

    def _conclude_refusal(self, this: _Try, result: UpstreamResult) -> Failure:
        """Conclude an attempt that got an error status, which is not billed.

        `refusal.about` decides what it means: the rate limit or a moment's overload, the account, or the request.
        """
        dialect = self._dialects[this.candidate.provider.kind]
        refusal, status = dialect.classify_error(result), result.status
        self._recorder.set_free(this.attempt)
        this.attempt.limit_tokens = self._admission.used(this.reservation, 0)
        # Redact before cutting: half a key would no longer be recognised as one.
        reason = self._redact(dialect.decode_error(result.body))[:MAX_PROVIDER_MESSAGE_CHARACTERS]
        message = self._message(this, f"answered {status}: {reason}" if reason else f"answered {status}")
        limited = refusal.about == "temporary" and status == LIMITED
        if limited:
            this.state.note_skipped(this.permit.limited(refusal.retry_after_s, message), limited=True)
        elif refusal.about == "account":
            # A 401 is about the key. A 402 or 403 may be about one prompt, so only different bodies count separately.
            request_id = this.state.request.id
            content = request_id if status == KEY_REFUSED else this.call.body
            this.permit.refused(request_id, hash(content), message)
        elif refusal.about == "temporary" and (status >= 500 or status < 400):  # a 408 or 409 is retried without blame
            this.permit.fail(message)
        else:
            this.permit.release()
        return Failure(
            message,
            final=refusal.is_final,
            limited=limited,
            retry_on_same=refusal.about == "temporary",
            retry_after_s=refusal.retry_after_s or 0.0,
            status=status,
        )

    def _conclude_answer(self, this: _Try, result: UpstreamResult) -> Success | Failure:
        """Conclude an attempt that got a 2xx status: a failure if the body is malformed, or not JSON in JSON mode."""
        request, provider = this.state.request, this.candidate.provider
        try:
            reply = self._translation.reply(request.client_request, provider, result.body, this.call)
        except Malformed as error:
            message = self._message(this, str(error))
            this.permit.fail(message)
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
            return Failure(message)
        this.permit.accepted()
        reply = self._record_reply(this, reply)
        if request.json_mode and reply.finish_reason != "length":
            content = json_text(reply.content)
            if content is None:
                return Failure(self._message(this, "The request requires JSON, and the answer is not JSON"))
            if content != reply.content:
                reply = msgspec.structs.replace(reply, content=content)
        return self._success(this, reply)

    def _record_reply(self, this: _Try, reply: Reply) -> Reply:
        """Record a complete reply, which is billed: availability, model name, cost, rate limit.

        Returns the reply, with its input tokens estimated if the provider did not count them.
        """
        attempt = this.attempt
        this.permit.succeed()
        reply = _with_input(reply, this.state.request)
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
        return Success(reply, candidate.provider.name, candidate.model, this.attempt.cost_nanos, candidate.cache_part)

    # A stream

    async def _commit(self, this: _Try, events: UpstreamEvents) -> OpenStream | None:
        """Read the stream until its content begins, and return it; None if it failed before, which `state` notes.

        The first event must arrive within the provider's timeout, each further one within `MAX_EVENT_GAP_S`.
        """
        request, provider = this.state.request, this.candidate.provider
        this.attempt.status = 200
        reader = self._translation.reader(request.client_request, provider)
        callbacks = AttemptCallbacks(partial(self._stream_served, this), partial(self._stream_cut, this))
        stream = OpenStream(events, reader, this.candidate, this.call, callbacks)
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
            self._end(this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise
        this.permit.accepted()
        return stream

    def _fail_before_content(self, this: _Try, error: StreamCut | Malformed | UpstreamError) -> None:
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

    def _stream_cut(self, this: _Try, stream: OpenStream, message: str, is_ours: bool) -> str:
        """Conclude the attempt of a stream that ended early; the tokens received so far are billed.

        `is_ours`: the client or the gateway gave it up. Returns the message without secrets.
        """
        completion = stream.assembler.completion()
        reply = reply_of(msgspec.structs.replace(completion, usage_estimated=True))
        self._recorder.set_cost(this.candidate.provider, this.attempt, _with_input(reply, this.state.request))
        this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        message = self._message(this, message)
        if is_ours:
            this.permit.release()
        else:
            this.permit.fail(message)
        self._end(this, error=message)
        self._availability.end(this.candidate.provider.id)
        return message


def _with_input(reply: Reply, request: Request) -> Reply:
    """Return the reply with its input tokens estimated, if the provider did not count them."""
    if not reply.usage_estimated or reply.usage.input_tokens:
        return reply
    usage = msgspec.structs.replace(reply.usage, input_tokens=request.estimated_input_tokens())
    return msgspec.structs.replace(reply, usage=usage)
