"""Endpoints of vendors' protocols: decode, the straight line, encode. One class for all, told by a descriptor each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from llm_gateway.domain.assembly import chunks_of
from llm_gateway.domain.conversation import Completion, Counted
from llm_gateway.domain.messages import Answer, Ask, Request
from llm_gateway.domain.weight import weigh
from llm_gateway.error_format.json_problem import not_an_object, not_json
from llm_gateway.error_format.problem import JSON, Headers, send_body
from llm_gateway.errors import GatewayError, Invalid, NotSupported
from llm_gateway.gate import headers as said
from llm_gateway.gate.body import InFlight
from llm_gateway.gate.entry import ENTRY, Entry
from llm_gateway.protocols.base import Head, Piece, StreamWriter, Unsupported
from llm_gateway.protocols.descriptor import Descriptor, Route
from llm_gateway.suggestions import closest
from llm_gateway.worker.endpoints.answer_headers import facts, who
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.endpoints.streaming import Drains, StreamedResponse
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.relay import Relay

ANONYMOUS = "anonymous"
GENERAL = "general"
DEFAULT_MAX_TOKENS = 4096
"""How long an answer is taken to be at most, for limits and the bound of its cost, where the client does not say."""
MOST_TOKENS, MOST_CHOICES = 10_000_000, 128
MOST_COMPARED = 100
MOST_NESTED = 400
"""Levels of a body: what is deeper could be read, but not be written again further down Python's stack."""

_decode = msgspec.json.Decoder().decode


class Serving(NamedTuple):
    """What endpoints serve with. `timeout_s` is the longest deadline a request may have."""

    gateway: Gateway
    in_flight: InFlight
    drains: Drains
    timeout_s: float
    log: Callable[..., None]


class Asking(Endpoint):
    """The endpoint at one route of a protocol."""

    def __init__(self, protocol: Descriptor, route: Route, serving: Serving) -> None:
        super().__init__(serving.in_flight, serving.log)
        self._protocol = protocol
        self._stream = route.stream
        self._is_model_in_path = route.names_model
        self._gateway = serving.gateway
        self._drains = serving.drains
        self._timeout_s = serving.timeout_s

    async def serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """As in `Endpoint`."""
        entry: Entry = scope[ENTRY]
        document = document_of(body)
        try:
            self._protocol.check(document)
        except Unsupported as error:
            raise NotSupported(f"{error.field}: {error.why}.", field=error.field) from None
        request = self._request(entry, document, asked_model(scope, document, is_in_path=self._is_model_in_path))
        head = Head(
            request_id=request.id,
            model=request.requested_model or "",
            created_s=request.at_ms // 1000,
            document=document,
            query=scope["query_string"],
        )
        ids: Headers = [(name, entry.echo) for name in self._protocol.id_headers]
        if request.stream and self._protocol.stream_writer is not None:
            writer = EventWriter(self._protocol, self._protocol.stream_writer(head), document)
            response = StreamedResponse(writer, receive, send, self._drains, ids, partial(self.failed, entry))
            await response.run(asyncio.ensure_future(self._gateway.stream(request)))
            return
        answer = await self._gateway.generate(request)
        reply = answer.reply
        content = reply.body or self._protocol.write_reply(reply.completion or Completion(choices=[]), head)
        await send_body(send, 200, content, JSON, [*facts(answer), *ids])

    def _request(self, entry: Entry, document: dict[str, Any], model: str) -> Request:
        protocol, stream = self._protocol, self._stream
        if stream is None:
            stream = document.get("stream")
            if stream is not None and not isinstance(stream, bool):
                raise Invalid("stream must be true or false.", loc=("body", "stream"))
        started = time.monotonic()
        headers = entry.headers
        use_cache, keep_in_cache = said.caching(headers)
        return Request(
            id=entry.request_id,
            at_ms=time.time_ns() // 1_000_000,
            started=started,
            deadline=said.deadline(headers, started, self._timeout_s),
            key_name=entry.caller.name,
            surface=protocol.surface,
            user_id=said.label(headers, b"x-user-id") or user_of(document, protocol.user_fields) or ANONYMOUS,
            service=said.label(headers, b"x-service-name") or entry.caller.name,
            task_type=said.label(headers, b"x-task-type") or GENERAL,
            max_tokens=most_output(document, protocol),
            client_request_id=entry.client_request_id,
            tags=said.tags(headers),
            use_cache=use_cache,
            keep_in_cache=keep_in_cache,
            ask=Ask(protocol.name, document, self._read, self._forwarded(headers)),
            input_weight=weigh(document, protocol.weighed_fields),
            stream=stream is True,
            requested_model=model,
        )

    def _forwarded(self, headers: dict[bytes, bytes]) -> bytes:
        """The header lines that only a provider of the client's protocol understands."""
        names = self._protocol.forwarded_headers
        return b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in names if name in headers])

    def _read(self, document: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
        read = self._protocol.read_request(document)
        return read.conversation, read.dropped


class EventWriter:
    """A streamed reply in a protocol's events: the provider's own bytes where it speaks the protocol, else written."""

    __slots__ = ("_hides", "_is_native", "_is_raw", "_read_reply", "_writer", "content_type", "keep_alive")

    def __init__(self, protocol: Descriptor, writer: StreamWriter, document: dict[str, Any]) -> None:
        self.content_type, self.keep_alive, self._is_raw = writer.content_type, writer.keep_alive, writer.is_raw
        self._hides = protocol.hides(document)
        self._read_reply = protocol.read_reply
        self._writer = writer
        self._is_native = False

    def opened(self, came: Relay | Answer) -> Headers:
        """As in `Writer`."""
        if isinstance(came, Answer):
            return facts(came)
        self._is_native = came.is_native
        return who(came.provider, came.model, came.route, came.dropped)

    def pieces(self, pieces: list[Piece]) -> bytes:
        """As in `Writer`."""
        if not self._is_native:
            return b"".join([self._writer.write(chunk) for piece in pieces for chunk in piece.chunks])
        hides = self._hides
        if not self._is_raw:
            return b"".join([self._writer.pass_on(piece.raw) for piece in pieces])
        if hides is None:
            return b"".join([piece.raw for piece in pieces])
        if len(pieces) == 1:
            [piece] = pieces
            return b"" if hides(piece) else piece.raw
        return b"".join([piece.raw for piece in pieces if not hides(piece)])

    def kept(self, answer: Answer) -> bytes:
        """As in `Writer`."""
        completion = answer.reply.completion or self._read_reply(answer.reply.body)
        return b"".join([self._writer.write(chunk) for chunk in chunks_of(completion)]) + self._writer.end()

    def end(self, answer: Answer) -> bytes:
        """As in `Writer`: the provider's own events had an end of their own."""
        if self._is_native:
            return self._writer.close()
        usage = answer.reply.usage
        counted = self._writer.write(Counted(usage=usage)) if answer.reply.usage_estimated else b""
        return counted + self._writer.end()

    def error(self, error: GatewayError) -> bytes:
        """As in `Writer`."""
        return self._writer.error(error.detail, error.code)


def _is_nested_deeply(body: bytes, document: dict[str, Any]) -> bool:
    """Whether writing it again could need more of the stack than there is."""
    if body.count(b"{") + body.count(b"[") <= MOST_NESTED:
        return False
    level: list[Any] = [document]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def document_of(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Invalid: there is none.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise not_json(body, error) from None
    if not isinstance(document, dict):
        raise not_an_object(document)
    if _is_nested_deeply(body, document):
        raise Invalid(f"The body is nested more than {MOST_NESTED} levels deep.", kind="json_invalid")
    return document


def asked_model(scope: Scope, document: dict[str, Any], *, is_in_path: bool) -> str:
    """Return the model that a request asks for, which its path names, or its document.

    Raises:
        Invalid: the document names none.
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
    """Return a remark about a field whose name is close to `model`, which is missing; nothing if there is none."""
    found = closest("model", islice(document, MOST_COMPARED)) if "model" not in document else None
    return f" The body has {found}: if model is meant, write that." if found is not None else ""


def user_of(document: dict[str, Any], fields: tuple[tuple[str, ...], ...]) -> str | None:
    """Return the customer whom one of these fields names."""
    for path in fields:
        user = document.get(path[0])
        if user is None:
            continue
        for name in path[1:]:
            user = user.get(name) if isinstance(user, dict) else None
        if isinstance(user, str) and user and len(user) <= said.MAX_LABEL_CHARACTERS and "\0" not in user:
            return user
    return None


def most_output(document: dict[str, Any], protocol: Descriptor) -> int:
    """Return how many tokens may be answered, over all choices."""
    places = [found for name in protocol.settings_fields if isinstance(found := document.get(name), dict)] or [document]
    limit = max([_positive(place, protocol.output_fields) or 0 for place in places]) or DEFAULT_MAX_TOKENS
    choices = max([_positive(place, protocol.choice_fields) or 1 for place in places])
    return min(limit * (choices if choices <= MOST_CHOICES else 1), MOST_TOKENS)


def _positive(document: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = document.get(name)
        if value is not None and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
