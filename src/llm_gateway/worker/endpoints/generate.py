"""Endpoint for POST /api/v1/generate, the gateway's own API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from llm_gateway import wall_clock
from llm_gateway.domain.client_presence import ClientPresence
from llm_gateway.domain.conversation import RefusalDelta, TextDelta
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.request import Request
from llm_gateway.domain.trace_context import read_trace_context
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.error_format.json_problem import not_an_object, not_json
from llm_gateway.error_format.query_parameters import refuse_parameters
from llm_gateway.error_format.responses import JSON, Headers, problem_of, send_body, send_pieces
from llm_gateway.error_format.validation import all_invalid
from llm_gateway.errors import GatewayError, Invalid
from llm_gateway.gate.agent import agent_of
from llm_gateway.gate.headers import caching, deadline, tags
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.gate.request_context import GATEWAY_ID, REQUEST_CONTEXT, RequestContext
from llm_gateway.gate.value_limit import checked_outline
from llm_gateway.json_outline import SMALL_BYTES, Buffer, HeldTexts
from llm_gateway.protocols.contract import EventStream, RawEvent
from llm_gateway.protocols.generate import GenerateAnswer, GenerateBody, client_request_of, input_length
from llm_gateway.routing.session_affinity import beginning_of
from llm_gateway.sse import encode_event
from llm_gateway.worker.endpoints.answer_headers import provider_and_route
from llm_gateway.worker.endpoints.attribution import session_in
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.endpoints.key_rights import restrict
from llm_gateway.worker.endpoints.streaming import DrainLimit, StreamedResponse
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.relay import Relay
from llm_gateway.worker.pipeline.translation import MOST_OUTLINE_BYTES, MOST_OUTLINE_VALUES


class GenerateEndpoint(Endpoint):
    """The endpoint of /generate. `timeout_s` is the longest deadline a request may have."""

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

    async def serve(self, scope: Scope, body: Buffer, receive: Receive, send: Send) -> None:
        """Send the answer as JSON, or as server-sent events if the request sets `stream`.

        Raises:
            GatewayError: as `Gateway.generate` and `Gateway.stream`; 400 or 422 for a body that cannot be read.
        """
        started = time.monotonic()
        if scope["query_string"]:
            refuse_parameters(scope["query_string"])
        held: HeldTexts | None = None
        if len(body) > SMALL_BYTES:
            outline = await checked_outline(body, most_bytes=MOST_OUTLINE_BYTES, most_values=MOST_OUTLINE_VALUES)
            if outline.text and outline.held:
                body, held = outline.text, outline.held
        context: RequestContext = scope[REQUEST_CONTEXT]
        request = self._request(context, self._decoded(bytes(body)), started, ClientPresence(receive, send), held)
        ids = [(b"x-request-id", context.echo), (GATEWAY_ID, context.request_id.encode())]
        if request.stream:
            writer = GenerateEventWriter(lambda answer: self._encoded(answer, started), context.echo.decode())
            response = StreamedResponse(writer, receive, send, self._drain_limit, ids, partial(self.failed, context))
            await response.run(asyncio.ensure_future(self._gateway.stream(request)))
            return
        answer = await self._gateway.generate(request)
        headers = [*provider_and_route(answer), *ids]
        content = self._encoded(answer, started)
        if answer.reply.held is None:
            await send_body(send, 200, content, JSON, headers)
        else:
            await send_pieces(send, 200, answer.reply.held.pieces(content), JSON, headers)

    def read(self, scope: Scope, body: bytes, presence: ClientPresence) -> Request:
        """Read a request as `serve` does, to explain it.

        Raises:
            GatewayError: 400 or 422 for a body that cannot be read.
        """
        refuse_parameters(scope["query_string"])
        return self._request(scope[REQUEST_CONTEXT], self._decoded(body), time.monotonic(), presence, None)

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
            decoded = _decoded_with_integral_float(body)
        user_id, service, task_type, model = decoded.user_id, decoded.service, decoded.task_type, decoded.model
        if user_id.isspace() or service.isspace() or task_type.isspace():
            raise _blank(decoded)
        if "\0" in user_id or "\0" in service or "\0" in task_type or (model is not None and "\0" in model):
            raise _with_nul(decoded)
        if decoded.prompt is None and decoded.messages is None:
            raise _without_prompt()
        return decoded

    def _request(
        self,
        context: RequestContext,
        body: GenerateBody,
        started: float,
        presence: ClientPresence,
        held: HeldTexts | None,
    ) -> Request:
        headers, key = context.headers, context.caller.key
        if key is not None and key.rights is not None and key.rights.max_tokens is not None:
            body.max_tokens = min(body.max_tokens, key.rights.max_tokens)
        client_request, length = client_request_of(body), input_length(body)
        if held is not None:
            client_request.held = held
            length += held.length
        use_cache, store_in_cache = caching(headers)
        request = Request(
            id=context.request_id,
            at_ms=wall_clock.now_ms(),
            started=started,
            deadline=deadline(headers, started, self._timeout_s),
            key_name=context.caller.name,
            key=key,
            surface="generate",
            user_id=body.user_id,
            service=body.service,
            client_request=client_request,
            task_type=body.task_type,
            max_tokens=body.max_tokens,
            json_mode=body.json_mode,
            client_request_id=context.client_request_id,
            tags=tags(headers),
            use_cache=use_cache,
            store_in_cache=store_in_cache,
            input_length=length,
            stream=body.stream or False,
            session=session_in(headers),
            agent=agent_of(headers.get(b"user-agent")),
            beginning=partial(beginning, body),
            requested_model=body.model,
            trace=read_trace_context(headers),
            presence=presence,
        )
        if key is not None and key.rights is not None:
            return restrict(request, key.rights)
        return request


class GenerateEventWriter:
    """The events of a streamed answer: `delta` events with text, then one `result` event with the other fields.

    It implements `EventWriter`.
    """

    content_type = EventStream.content_type
    keep_alive = EventStream.keep_alive

    def __init__(self, encode: Callable[[Answer], bytes], request_id: str) -> None:
        self._encode = encode
        self._request_id = request_id

    def opened(self, came: Relay | Answer) -> Headers:
        """Return the headers that are known by now; model and cost follow in the `result` event."""
        return provider_and_route(came)

    def take(self, raw_events: list[RawEvent]) -> bytes:
        """Return one `delta` event for each piece of text, refusals included."""
        texts = [
            c.text for raw_event in raw_events for c in raw_event.chunks if isinstance(c, TextDelta | RefusalDelta)
        ]
        return b"".join([_delta(text) for text in texts if text])

    def kept(self, answer: Answer) -> bytes:
        """Return one `delta` event with the whole text, then the `result` event."""
        data = _delta(answer.reply.content) + self.end(answer)
        return data if answer.reply.held is None else answer.reply.held.restored(data)

    def end(self, answer: Answer) -> bytes:
        """Return the `result` event."""
        return encode_event(self._encode(answer), b"result")

    def headers_of_error(self, error: GatewayError) -> None:
        """Return None: an error before the stream begins is an error response."""

    def error(self, error: GatewayError) -> bytes:
        """Return one `error` event with problem details (RFC 9457)."""
        return encode_event(msgspec.json.encode(problem_of(error, self._request_id)), b"error")


def beginning(body: GenerateBody) -> str:
    """Return the start of the conversation, which stands for the session of a request without one."""
    document = {"system": body.system, "messages": body.messages or [{"role": "user", "content": body.prompt or ""}]}
    return beginning_of(document, ("system", "messages"))


def _delta(text: str) -> bytes:
    return encode_event(msgspec.json.encode({"text": text}), b"delta")


def _decoded_with_integral_float(body: bytes) -> GenerateBody:
    """Decode the body once more, with an integral float in max_tokens (1000.0) taken as an integer.

    Some languages write every number of a JSON document as a float.

    Raises:
        Invalid: the body has another mistake.
    """
    try:
        fields: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise not_json(body, error) from None
    if not isinstance(fields, dict):
        raise not_an_object(fields)
    if isinstance(count := fields.get("max_tokens"), float) and count.is_integer():
        fields["max_tokens"] = int(count)
    try:
        return msgspec.convert(fields, GenerateBody)
    except msgspec.ValidationError as error:
        has_prompt = fields.get("prompt") is not None or fields.get("messages") is not None
        raise all_invalid(fields, GenerateBody, error, () if has_prompt else (_without_prompt(),)) from None


def _blank(body: GenerateBody) -> Invalid:
    labels = {"user_id": body.user_id, "service": body.service, "task_type": body.task_type}
    name = next(name for name, label in labels.items() if label.isspace())
    return Invalid(f"{name} must not be blank.", loc=("body", name))


def _with_nul(body: GenerateBody) -> Invalid:
    labels = {"user_id": body.user_id, "service": body.service, "task_type": body.task_type, "model": body.model or ""}
    name = next(name for name, label in labels.items() if "\0" in label)
    return Invalid(f"{name} must not contain a NUL character.", loc=("body", name))


def _without_prompt() -> Invalid:
    return Invalid("prompt is required.", loc=("body", "prompt"), kind="missing")
