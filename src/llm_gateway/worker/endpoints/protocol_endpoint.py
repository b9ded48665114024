"""Endpoints of vendor-compatible APIs that run a request through the gateway; one class for all protocols."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from llm_gateway import wall_clock
from llm_gateway.domain.client_presence import ClientPresence
from llm_gateway.domain.conversation import Completion, UsageUpdate
from llm_gateway.domain.reply import Answer, Reply
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.token_estimate import equivalent_length_of
from llm_gateway.domain.trace_context import read_trace_context
from llm_gateway.error_format.responses import JSON, Headers, error_headers, send_body, send_pieces, shorten
from llm_gateway.errors import GatewayError, Invalid, NotSupported
from llm_gateway.forked import Forks
from llm_gateway.gate import headers as request_headers
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.gate.request_context import GATEWAY_ID, REQUEST_CONTEXT, RequestContext
from llm_gateway.json_outline import SMALL_BYTES, Buffer, HeldTexts, Piece
from llm_gateway.protocols.call_ids import make_calls_unique
from llm_gateway.protocols.contract import RawEvent, ReplyContext, StreamWriter, Unsupported
from llm_gateway.protocols.descriptor import Descriptor, Route
from llm_gateway.routing.session_affinity import beginning_of
from llm_gateway.suggestions import closest
from llm_gateway.worker.endpoints.answer_headers import gateway_headers, provider_headers
from llm_gateway.worker.endpoints.attribution import identify
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.endpoints.key_rights import restrict
from llm_gateway.worker.endpoints.request_document import Large, parse_document, read_large_document
from llm_gateway.worker.endpoints.streaming import DrainLimit, StreamedResponse
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.output_limit import limit_by_key, output_limit
from llm_gateway.worker.pipeline.relay import Relay

GENERAL = "general"
MOST_COMPARED = 100
"""Fields of a body without `model` that are compared with that name."""


class EndpointDependencies(NamedTuple):
    """Dependencies of the endpoints. `timeout_s` is the longest deadline a request may have.

    `most_bytes` is the limit of a body on the vendors' paths, `forks` decodes large ones.
    """

    gateway: Gateway
    in_flight: InFlight
    drain_limit: DrainLimit
    timeout_s: float
    log: Callable[..., None]
    most_bytes: int
    forks: Forks


class ProtocolEndpoint(Endpoint):
    """One route of a vendor's protocol: decode the request, run it through the gateway, encode the answer."""

    def __init__(self, protocol: Descriptor, route: Route, dependencies: EndpointDependencies) -> None:
        super().__init__(dependencies.in_flight, dependencies.log, dependencies.most_bytes)
        self._forks = dependencies.forks
        self._protocol = protocol
        self._stream = route.stream
        self._is_model_in_path = route.names_model
        self._gateway = dependencies.gateway
        self._drain_limit = dependencies.drain_limit
        self._timeout_s = dependencies.timeout_s

    async def serve(self, scope: Scope, body: Buffer, receive: Receive, send: Send) -> None:
        """Send the answer in the protocol's format, whole or streamed (see `Endpoint.serve`)."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        large: Large | None = None
        if len(body) > SMALL_BYTES:
            document, large = await read_large_document(body, self._protocol.input_fields, self._forks)
        else:
            document = parse_document(body)  # type: ignore[arg-type]  # only a large body is a bytearray
        model = self._checked_model(scope, document)
        request = self._request(context, document, model, ClientPresence(receive, send), large)
        reply_context = ReplyContext(
            request_id=request.id,
            model=request.requested_model or "",
            created_s=request.at_ms // 1000,
            document=document,
            query=scope["query_string"],
        )
        ids: Headers = [(name, context.echo) for name in self._protocol.id_headers]
        ids.append((GATEWAY_ID, context.request_id.encode()))
        if request.stream and self._protocol.stream_writer is not None:
            writer = ProtocolEventWriter(
                self._protocol, self._protocol.stream_writer(reply_context), document, large and large.held
            )
            response = StreamedResponse(writer, receive, send, self._drain_limit, ids, partial(self.failed, context))
            await response.run(asyncio.ensure_future(self._gateway.stream(request)))
            return
        answer = await self._gateway.generate(request)
        reply = answer.reply
        content = reply.body or self._protocol.write_reply(reply.completion or Completion(choices=[]), reply_context)
        headers = [*gateway_headers(answer), *ids]
        if large is None and reply.held is None and len(content) <= SMALL_BYTES:
            await send_body(send, 200, content, JSON, headers)
        else:
            await send_pieces(send, 200, _pieces(reply, content, large and large.held), JSON, headers)

    def read(self, scope: Scope, body: bytes, presence: ClientPresence) -> Request:
        """Read a request as `serve` does, to explain it.

        Raises:
            GatewayError: 400 or 422 for a body that cannot be read.
        """
        document = parse_document(body)
        return self._request(scope[REQUEST_CONTEXT], document, self._checked_model(scope, document), presence, None)

    def _checked_model(self, scope: Scope, document: dict[str, Any]) -> str:
        """Return the model that a request names, after a look at what its protocol does not allow."""
        try:
            self._protocol.check_request(document)
        except Unsupported as error:
            raise NotSupported(f"{error.field}: {error.why}.", field=error.field) from None
        return requested_model_of(scope, document, is_in_path=self._is_model_in_path)

    def _request(
        self,
        context: RequestContext,
        document: dict[str, Any],
        model: str,
        presence: ClientPresence,
        large: Large | None,
    ) -> Request:
        protocol, stream = self._protocol, self._stream
        if stream is None:
            stream = document.get("stream")
            if stream is not None and not isinstance(stream, bool):
                raise Invalid("stream must be true or false.", loc=("body", "stream"))
        started = time.monotonic()
        headers = context.headers
        use_cache, store_in_cache = request_headers.caching(headers)
        client_request = ClientRequest(protocol.name, document, self._read, self._forwarded(headers))
        if large is not None:
            client_request.held, client_request.apart, client_request.size = large.held, large.apart, large.size
        key = context.caller.key
        if key is not None and key.rights is not None:
            limit_by_key(client_request, protocol, key.rights)
        identity = identify(headers, document, protocol, context.caller.name)
        request = Request(
            id=context.request_id,
            at_ms=wall_clock.now_ms(),
            started=started,
            deadline=request_headers.deadline(headers, started, self._timeout_s),
            key_name=context.caller.name,
            key=key,
            surface=protocol.surface,
            user_id=identity.user_id,
            service=request_headers.label(headers, b"x-service-name") or context.caller.name,
            task_type=request_headers.label(headers, b"x-task-type") or GENERAL,
            max_tokens=output_limit(document, protocol),
            client_request_id=context.client_request_id,
            tags=request_headers.tags(headers),
            use_cache=use_cache,
            store_in_cache=store_in_cache,
            client_request=client_request,
            input_length=equivalent_length_of(document, protocol.input_fields) if large is None else large.length,
            stream=stream is True,
            session=identity.session,
            agent=identity.agent,
            beginning=partial(beginning_of, document, protocol.input_fields) if large is None else large.told_beginning,
            requested_model=model,
            trace=read_trace_context(headers),
            presence=presence,
        )
        return request if key is None or key.rights is None else restrict(request, key.rights)

    def _forwarded(self, headers: dict[bytes, bytes]) -> bytes:
        """Return the request's header lines that are passed on to a provider of the same protocol."""
        names = self._protocol.forwarded_headers
        return b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in names if name in headers])

    def _read(self, document: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
        read = self._protocol.read_request(document)
        return make_calls_unique(read.conversation), read.dropped


def _pieces(reply: Reply, content: bytes, held: HeldTexts | None) -> list[Piece]:
    """Return the body of a response with the long strings of the answer, and of the request that it repeats."""
    if reply.body:
        return [content]
    return (reply.held or HeldTexts()).joined(held).pieces(content)


class ProtocolEventWriter:
    """The events of a streamed reply: the provider's own if it speaks the client's protocol, otherwise encoded.

    It implements `EventWriter`.
    """

    __slots__ = ("_held", "_is_native", "_is_raw", "_is_withheld", "_protocol", "_writer", "content_type", "keep_alive")

    def __init__(
        self, protocol: Descriptor, writer: StreamWriter, document: dict[str, Any], held: HeldTexts | None = None
    ) -> None:
        self._held = held
        self.content_type, self.keep_alive, self._is_raw = writer.content_type, writer.keep_alive, writer.is_raw
        self._is_withheld = protocol.withheld_events(document)
        self._protocol = protocol
        self._writer = writer
        self._is_native = False

    def opened(self, came: Relay | Answer) -> Headers:
        """Return the x-gateway-* headers that are known when the reply begins."""
        if isinstance(came, Answer):
            return gateway_headers(came)
        self._is_native = came.is_native
        return provider_headers(came, came.dropped)

    def take(self, raw_events: list[RawEvent]) -> bytes:
        """Return the provider's bytes if it speaks the client's protocol, otherwise the chunks encoded.

        An event that the client did not opt in to, such as the usage event that the gateway requests, is left out.
        """
        if not self._is_native:
            data = b"".join([self._writer.write(chunk) for raw_event in raw_events for chunk in raw_event.chunks])
            return data if self._held is None else self._held.restored(data)
        is_withheld = self._is_withheld
        if not self._is_raw:
            return b"".join([self._writer.passthrough_event(raw_event.raw) for raw_event in raw_events])
        if is_withheld is None:
            return b"".join([raw_event.raw for raw_event in raw_events])
        if len(raw_events) == 1:
            [raw_event] = raw_events
            return b"" if is_withheld(raw_event) else raw_event.raw
        return b"".join([raw_event.raw for raw_event in raw_events if not is_withheld(raw_event)])

    def kept(self, answer: Answer) -> bytes:
        """Return a whole answer as a complete stream of the client's protocol."""
        completion = answer.reply.completion or self._protocol.read_reply(answer.reply.body)
        data = b"".join([self._writer.write(chunk) for chunk in chunks_of(completion)]) + self._writer.end()
        held = answer.reply.held or self._held
        return data if held is None else held.joined(self._held).restored(data)

    def end(self, answer: Answer) -> bytes:
        """Return the final events; few or none for a provider's own events, which included their end."""
        if self._is_native:
            return self._writer.close()
        usage = answer.reply.usage
        counted = self._writer.write(UsageUpdate(usage=usage)) if answer.reply.usage_estimated else b""
        data = counted + self._writer.end()
        return data if self._held is None else self._held.restored(data)

    def headers_of_error(self, error: GatewayError) -> Headers | None:
        """Return headers for an error that clients of the protocol recognise only in a stream, else None."""
        is_streamed = self._protocol.error_code(error) in self._protocol.streamed_errors
        return error_headers(error) if is_streamed else None

    def error(self, error: GatewayError) -> bytes:
        """Return the protocol's error event."""
        shorten(error)
        return self._writer.error(self._protocol.error_message(error), self._protocol.error_code(error))


def requested_model_of(scope: Scope, document: dict[str, Any], *, is_in_path: bool) -> str:
    """Return the model that a request names, in its path or in its document.

    Raises:
        Invalid: there is no model name, or it cannot be one.
    """
    if is_in_path:
        named: str = scope["path_params"]["model"]
        if "\0" in named:
            raise Invalid("The model's name must not contain a NUL character.", loc=("path", "model"))
        return named
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise Invalid(
            "model is required: the name of a model, provider/model, or auto for the gateway's own routing."
            + _misspelt_model(document),
            loc=("body", "model"),
        )
    if "\0" in model:
        raise Invalid("model must not contain a NUL character.", loc=("body", "model"))
    return model


def _misspelt_model(document: dict[str, Any]) -> str:
    """Return a hint at a field whose name resembles `model`, if `model` is missing; "" without such a field."""
    found = closest("model", islice(document, MOST_COMPARED)) if "model" not in document else None
    return f" The body has the field {found}. Did you mean model?" if found is not None else ""
