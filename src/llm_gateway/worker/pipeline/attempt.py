"""One attempt: intent → send → decode → outcome. What it holds (a permit, a reservation) is given back however it ends.

A whole answer is concluded here at once. A stream is handed on once its content begins, and whoever reads it on says
how it ended (`worker/pipeline/open_stream.py`).
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

SAID_CHARACTERS = 500
KEY_REFUSED, LIMITED = 401, 429


class _Try:
    """One attempt under way: what it holds until it is concluded."""

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
    """Makes attempts."""

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
        """One attempt, with what was given for it. None if it failed, which is noted in `state`."""
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
        except Exception:  # edge: a defect of ours in reading the answer; the permit must not be lost with it
            permit.release()
            raise
        finally:
            if stream is None:
                self._availability.end(provider_id)

    async def _send(self, this: _Try) -> UpstreamResult | UpstreamEvents:
        request, provider = this.state.request, this.candidate.provider
        try:
            this.attempt = await self._recorder.write_intent(
                this.state.record, request, this.candidate, this.reservation.tokens
            )
        except BaseException:  # edge: whatever went wrong, nothing was sent, so nothing stays reserved
            self._admission.never_sent(this.reservation)
            this.permit.release()
            raise
        if not this.permit.holds():
            return UpstreamResult(fault="not_sent", message="It failed meanwhile and is being spared", is_ours=True)
        this.started = self._clock()
        remaining = request.deadline - this.started
        this.full_timeout = provider.timeout_s <= remaining
        send = self._transport.open if request.stream else self._transport.post
        try:
            return await send(provider, this.call, min(provider.timeout_s, remaining))
        except BaseException as error:  # edge: cancelled in mid-call; it may be billed, so its bound stays recorded
            this.permit.release()
            if isinstance(error, CancelledBeforeSend):
                self._never_sent(this)
            self._end(this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise

    def _never_sent(self, this: _Try) -> None:
        this.attempt.sent = False
        self._recorder.set_free(this.attempt)
        this.attempt.limit_tokens = self._admission.never_sent(this.reservation)

    # A whole answer

    def _conclude(self, this: _Try, result: UpstreamResult) -> Success | None:
        this.attempt.status = result.status or None
        if result.fault is not None:
            failure = self._faulted(this, result)
        elif 200 <= result.status < 300:
            answered = self._answered(this, result)
            if isinstance(answered, Success):
                self._end(this)
                return answered
            failure = answered
        else:
            failure = self._refused(this, result)
        self._failed(this, failure)
        return None

    def _words(self, this: _Try, message: str) -> str:
        """What the provider's failure is called, to clients and in the log."""
        return self._redact(f"Provider {this.candidate.provider.name}: {message}")

    def _failed(self, this: _Try, failure: Failure) -> None:
        self._end(this, error=failure.message)
        this.state.note_failure(failure)

    def _end(self, this: _Try, error: str | None = None) -> None:
        this.attempt.error = error
        this.attempt.latency_ms = int((self._clock() - this.started) * 1000)
        self._recorder.write_outcome(this.state.record, this.attempt)

    def _faulted(self, this: _Try, result: UpstreamResult) -> Failure:
        """No response: a breaker's failure, unless it was ours or had less time than the provider's own timeout."""
        if result.fault == "not_sent":
            self._never_sent(this)
        else:
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        message = self._words(this, result.message)
        if result.is_ours or (result.fault == "timeout" and not this.full_timeout):
            this.permit.release()
        else:
            this.permit.fail(message)
        return Failure(message, sent=this.attempt.sent)

    def _refused(self, this: _Try, result: UpstreamResult) -> Failure:
        """A status that is no success: bought nothing; what follows depends on whom the refusal is about."""
        dialect = self._dialects[this.candidate.provider.kind]
        refusal, status = dialect.classify_error(result), result.status
        self._recorder.set_free(this.attempt)
        this.attempt.limit_tokens = self._admission.used(this.reservation, 0)
        # Redacted before it is cut: the cut must not leave half a key, which looks like none.
        said = self._redact(dialect.decode_error(result.body))[:SAID_CHARACTERS]
        message = self._words(this, f"answered {status}: {said}" if said else f"answered {status}")
        limited = refusal.about == "temporary" and status == LIMITED
        if limited:
            this.state.note_skipped(this.permit.limited(refusal.retry_after_s, message), limited=True)
        elif refusal.about == "account":
            # A 401 is about the key, whatever was sent; a 402 or 403 may be about one prompt in words nobody knows.
            request_id = this.state.request.id
            content = request_id if status == KEY_REFUSED else this.call.body
            this.permit.refused(request_id, hash(content), message)
        elif refusal.about == "temporary" and (status >= 500 or status < 400):
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

    def _answered(self, this: _Try, result: UpstreamResult) -> Success | Failure:
        """A success status: served, unless its content is not what the dialect or JSON mode promises."""
        request, provider = this.state.request, this.candidate.provider
        try:
            reply = self._translation.reply(request.client_request, provider, result.body, this.call.dropped)
        except Malformed as error:
            message = self._words(this, str(error))
            this.permit.fail(message)
            this.attempt.limit_tokens = self._admission.unknown(this.reservation)
            return Failure(message)
        this.permit.accepted()
        reply = self._bought(this, reply)
        if request.json_mode and reply.finish_reason != "length":
            content = json_text(reply.content)
            if content is None:
                return Failure(self._words(this, "JSON was asked for and the content is none"))
            if content != reply.content:
                reply = msgspec.structs.replace(reply, content=content)
        return self._served(this, reply)

    def _bought(self, this: _Try, reply: Reply) -> Reply:
        """Book a complete reply: breaker, names, cost, limit. The reply comes back with its input counted."""
        attempt = this.attempt
        this.permit.succeed()
        reply = _with_input(reply, this.state.request)
        attempt.upstream_model, attempt.upstream_request_id = reply.upstream_model, reply.upstream_request_id
        names = f"{reply.upstream_model} {reply.upstream_request_id}"
        if self._redact(names) != names:
            attempt.upstream_model = attempt.upstream_request_id = None
        attempt.finish_reason = reply.finish_reason
        self._recorder.set_cost(this.candidate.provider, attempt, reply)
        used = reply.usage.input_tokens + reply.usage.output_tokens
        attempt.limit_tokens = self._admission.used(this.reservation, used)
        return reply

    @staticmethod
    def _served(this: _Try, reply: Reply) -> Success:
        candidate = this.candidate
        return Success(reply, candidate.provider.name, candidate.model, this.attempt.cost_nanos, candidate.cache_part)

    # A stream

    async def _commit(self, this: _Try, events: UpstreamEvents) -> OpenStream | None:
        """Read on until there is some content; from then on it is the client's."""
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
                    raise Malformed("The stream ended before it said anything")
                commit_by = min(self._clock() + MAX_EVENT_GAP_S, request.deadline)
        except (StreamCut, Malformed, UpstreamError) as error:
            events.close()
            self._never_began(this, error)
            return None
        except BaseException as error:  # edge: cancelled while it waits, or a defect; it may be billed
            events.close()
            this.permit.release()
            self._end(this, error="cancelled" if isinstance(error, asyncio.CancelledError) else "defect")
            raise
        this.permit.accepted()
        return stream

    def _never_began(self, this: _Try, error: StreamCut | Malformed | UpstreamError) -> None:
        fault = error.fault if isinstance(error, StreamCut) else "broken"
        message = str(error) if fault == "broken" else "No complete answer in time"
        self._failed(this, self._faulted(this, UpstreamResult(fault=fault, message=message)))

    def _stream_served(self, this: _Try, stream: OpenStream) -> Success:
        """The stream is complete."""
        is_text = this.state.request.client_request.is_canonical
        completion = stream.assembler.completion()
        reply = self._bought(this, reply_of(completion, dropped=stream.dropped, is_text=is_text))
        if this.state.request.json_mode and json_text(reply.content) != reply.content:
            reply = msgspec.structs.replace(reply, is_cacheable=False)  # who asks for a whole answer is promised JSON
        self._end(this)
        self._availability.end(this.candidate.provider.id)
        return self._served(this, reply)

    def _stream_cut(self, this: _Try, stream: OpenStream, message: str, is_ours: bool) -> str:
        """The stream ends in its middle: what came of it was bought. `is_ours`: nobody wanted the rest.

        Returns the message as it may be shown.
        """
        completion = stream.assembler.completion()
        reply = reply_of(msgspec.structs.replace(completion, usage_estimated=True))
        self._recorder.set_cost(this.candidate.provider, this.attempt, _with_input(reply, this.state.request))
        this.attempt.limit_tokens = self._admission.unknown(this.reservation)
        message = self._words(this, message)
        if is_ours:
            this.permit.release()
        else:
            this.permit.fail(message)
        self._end(this, error=message)
        self._availability.end(this.candidate.provider.id)
        return message


def _with_input(reply: Reply, request: Request) -> Reply:
    """The reply with its input estimated, if the provider did not count it."""
    if not reply.usage_estimated or reply.usage.input_tokens:
        return reply
    usage = msgspec.structs.replace(reply.usage, input_tokens=request.estimated_input_tokens())
    return msgspec.structs.replace(reply, usage=usage)
