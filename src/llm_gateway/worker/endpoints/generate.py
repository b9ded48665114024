"""Endpoint for POST /api/v1/generate, the gateway's own API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from llm_gateway.domain.conversation import RefusalDelta, TextDelta
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.error_format.responses import JSON, Headers, problem_of, send_body
from llm_gateway.error_format.validation import invalid_request
from llm_gateway.errors import GatewayError, Invalid
from llm_gateway.gate.body import InFlight
from llm_gateway.gate.headers import caching, deadline, tags
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.protocols.contract import EventStream, RawEvent
from llm_gateway.protocols.generate import GenerateAnswer, GenerateBody, client_request_of, input_length
from llm_gateway.sse import encode_event
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.endpoints.streaming import DrainLimit, StreamedResponse
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.relay import Relay


class GenerateEndpoint(Endpoint):
    """Serve /generate. `timeout_s` is the longest deadline a request may have."""

    def __init__(
        self,
        gateway: Gateway,
        in_flight: InFlight,
        drain_limit: DrainLimit,
        *,
        timeout_s: float,
        log: Callable[..., None],
    ) -> None:
        super().__init__(in_flight, log)
        self._gateway = gateway
        self._drain_limit = drain_limit
        self._timeout_s = timeout_s
        self._decode = msgspec.json.Decoder(GenerateBody).decode
        self._encode = msgspec.json.Encoder().encode

    async def serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """The answer as JSON; errors as `Gateway.generate`'s, and 400 and 422 for what cannot be read."""
        started = time.monotonic()
        context: RequestContext = scope[REQUEST_CONTEXT]
        request = self._request(context, self._decoded(body), started)
        ids = [(b"x-request-id", context.echo)]
        if request.stream:
            writer = GenerateEventWriter(lambda answer: self._encoded(answer, started), context.echo.decode())
            response = StreamedResponse(writer, receive, send, self._drain_limit, ids, partial(self.failed, context))
            await response.run(asyncio.ensure_future(self._gateway.stream(request)))
            return
        answer = await self._gateway.generate(request)
        await send_body(send, 200, self._encoded(answer, started), JSON, ids)

    def _encoded(self, answer: Answer, started: float) -> bytes:
        reply = answer.reply
        return self._encode(
            GenerateAnswer(
                content=reply.content,
                provider=answer.provider,
                model=answer.model,
                input_tokens=reply.usage.input_tokens,
                output_tokens=reply.usage.output_tokens,
                cost_usd=answer.cost_nanos / NANOS_PER_USD,
                cached=answer.cached,
                latency_ms=int((time.monotonic() - started) * 1000),
                finish_reason=reply.finish_reason,
                cost_status=answer.cost_status,
            )
        )

    def _decoded(self, body: bytes) -> GenerateBody:
        try:
            decoded = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = _decoded_otherwise(body)
        for name, label in (
            ("user_id", decoded.user_id),
            ("service", decoded.service),
            ("task_type", decoded.task_type),
            ("model", decoded.model or ""),
        ):
            if "\0" in label:
                raise Invalid(f"{name} must not contain a NUL character.", loc=("body", name))
        if decoded.prompt is msgspec.UNSET and decoded.messages is None:
            raise Invalid("prompt is required.", loc=("body", "prompt"), kind="missing")
        return decoded

    def _request(self, context: RequestContext, body: GenerateBody, started: float) -> Request:
        headers = context.headers
        use_cache, store_in_cache = caching(headers)
        return Request(
            id=context.request_id,
            at_ms=time.time_ns() // 1_000_000,
            started=started,
            deadline=deadline(headers, started, self._timeout_s),
            key_name=context.caller.name,
            surface="generate",
            user_id=body.user_id,
            service=body.service,
            client_request=client_request_of(body),
            task_type=body.task_type,
            max_tokens=body.max_tokens,
            json_mode=body.json_mode,
            client_request_id=context.client_request_id,
            tags=tags(headers),
            use_cache=use_cache,
            store_in_cache=store_in_cache,
            input_length=input_length(body),
            stream=body.stream,
            requested_model=body.model,
        )


class GenerateEventWriter:
    """Write a streamed answer: `delta` events with text, then one `result` event with the fields of a whole answer."""

    content_type = EventStream.content_type
    keep_alive = EventStream.keep_alive

    def __init__(self, encode: Callable[[Answer], bytes], request_id: str) -> None:
        self._encode = encode
        self._request_id = request_id

    def opened(self, came: Relay | Answer) -> Headers:
        """As in `EventWriter`."""
        return []

    def take(self, raw_events: list[RawEvent]) -> bytes:
        """As in `EventWriter`."""
        texts = [
            c.text for raw_event in raw_events for c in raw_event.chunks if isinstance(c, TextDelta | RefusalDelta)
        ]
        return b"".join([_delta(text) for text in texts if text])

    def kept(self, answer: Answer) -> bytes:
        """As in `EventWriter`."""
        return _delta(answer.reply.content) + self.end(answer)

    def end(self, answer: Answer) -> bytes:
        """As in `EventWriter`."""
        return encode_event(self._encode(answer), b"result")

    def error(self, error: GatewayError) -> bytes:
        """As in `EventWriter`."""
        return encode_event(msgspec.json.encode(problem_of(error, self._request_id)), b"error")


def _delta(text: str) -> bytes:
    return encode_event(msgspec.json.encode({"text": text}), b"delta")


def _decoded_otherwise(body: bytes) -> GenerateBody:
    """The body once more: perhaps its max_tokens is spelled 1000.0, as some languages write every number.

    Raises:
        Invalid: that was not it, or not all.
    """
    try:
        fields: Any = msgspec.json.decode(body)
        if isinstance(fields, dict) and isinstance(count := fields.get("max_tokens"), float) and count.is_integer():
            fields["max_tokens"] = int(count)
        return msgspec.convert(fields, GenerateBody)
    except msgspec.ValidationError as error:
        raise invalid_request(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The body is no JSON object: {error}.", kind="json_invalid") from None
