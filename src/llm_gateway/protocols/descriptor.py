"""The `Descriptor` in which each protocol package declares its routes, functions and field names to the gateway.

A minimal protocol, which `registry.PROTOCOLS` then lists:

    DESCRIPTOR = Descriptor(
        name="acme",
        vendor="Acme",
        surface="acme_chat",
        routes=(Route(path="/v1/acme", operation="createAcme", summary="Chat completion (Acme)", stream=None),),
        read_request=read_request,  # signatures: contract.py
        read_reply=read_reply,
        write_reply=write_reply,
        write_error=write_error,
        error_schema={"title": "AcmeError", "type": "object"},
        stream_writer=StreamWriter,
        input_fields=("messages",),
        uncached_fields=frozenset({"model", "stream"}),
    )

Call order for one client request:

    check_request(document)          always, before a provider is chosen
    then, if the provider speaks this protocol:
      passthrough_request(document)  for each provider tried; then read_reply (whole reply) or withheld_events (stream)
    or, if `translations` has a protocol of the provider:
      translation.write, .read       for each provider tried; never for streams
    or, if `is_translatable`:
      read_request(document)         once; then write_reply (whole reply) or stream_writer (stream)
    write_error                      if the request failed before its response began
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.usage import Price
from llm_gateway.errors import GatewayError
from llm_gateway.protocols.contract import JsonObject, ParsedRequest, RawEvent, ReplyContext, StreamWriter, UpstreamBody

PART_KINDS = ("audio", "file", "image", "tool_calls", "tool_result")
"""Kinds of message parts; `Descriptor.field_names` maps them to the request field that contains the messages."""
MODEL = "{model}"
"""Placeholder for the model's name in the path of a `Route`. A name may contain slashes; a colon must follow it."""


def _accept_all(_document: JsonObject) -> None:
    """Accept every document: the default of `Descriptor.check_request`."""


def _standard_tier(_document: JsonObject) -> None:
    """Return None, the standard tier, for every document: the default of `Descriptor.requested_tier`."""


def _passthrough_unchanged(document: JsonObject, *, stream: bool) -> JsonObject:
    """Return the document unchanged: the default of `Descriptor.passthrough_request`."""
    return document


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A POST route. The model's name is in the path at `{model}`, or else in the body's `model`.

    `stream` is True for streamed responses, False for whole ones, and None if the body's `stream` field decides.
    `operation` and `summary` describe the route in the OpenAPI document.
    """

    path: str
    operation: str
    summary: str
    stream: bool | None = False

    @property
    def names_model(self) -> bool:
        """True if the path contains the model's name."""
        return MODEL in self.path


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """The routes that estimate the input tokens of a request.

    `request_of(body)` returns the request inside the body, and `write(tokens)` encodes the response.
    """

    routes: tuple[Route, ...]
    write: Callable[[int], bytes]
    request_of: Callable[[JsonObject], JsonObject] = lambda document: document


class ListedModel(msgspec.Struct, frozen=True):
    """A model that clients may request by name, and what is known about it; None stands for unknown.

    `created_ms` is the time when its provider was configured, in ms since 1970, or 0. `context_window` and
    `max_output_tokens` are tokens. `has_chat` and `has_embeddings` tell which requests its providers accept.
    """

    name: str
    owner: str
    created_ms: int
    context_window: int | None = None
    max_output_tokens: int | None = None
    price: Price | None = None
    has_chat: bool = True
    has_embeddings: bool = False


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The GET routes of the model list (`paths`) and of a single model (`paths` + `/{model}`).

    Protocols may share a path. A request then belongs to the protocol of which it carries a header in `markers` or
    the key parameter, otherwise to the first protocol in the registry. `write(models, query)` encodes the page that
    the query parameters ask for; it raises `Invalid` for one that is not valid.
    """

    paths: tuple[str, ...]
    operation: str
    write: Callable[[Sequence[ListedModel], Mapping[str, str]], bytes]
    write_one: Callable[[ListedModel], bytes]
    markers: tuple[bytes, ...] = ()


class DocumentTranslation(msgspec.Struct, frozen=True, kw_only=True):
    """A direct translation into another protocol, for requests without a conversation such as embeddings.

    `write(document, model)` returns the provider's request; `read(body)` converts the provider's reply into the
    client's protocol.
    """

    write: Callable[[JsonObject, str], UpstreamBody]
    read: Callable[[bytes], bytes]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol in which clients may call the gateway. The module docstring shows an example and the call order."""

    name: str
    """Key in the registry, also in the configuration of providers (`protocols`)."""
    vendor: str
    surface: str
    """The endpoint's name in usage records and logs."""
    routes: tuple[Route, ...]
    read_request: Callable[[JsonObject], ParsedRequest]
    """Parse a client's request. Not called if the request passes through to a provider of the same protocol."""
    read_reply: Callable[[bytes], Completion]
    """Parse a reply in this protocol, to count its tokens and, from the cache, to stream it."""
    write_reply: Callable[[Completion, ReplyContext], bytes]
    """Encode a client's whole reply. Not called for replies that pass through, nor for streams."""
    write_error: Callable[[GatewayError, str], bytes]
    """Encode an error response, given the request id. Not called once the response has begun."""
    error_schema: JsonObject
    """JSON schema of the error responses, for the OpenAPI document. Requires a `title`."""
    error_code: Callable[[GatewayError], str] = lambda error: error.shown_code
    """Return the code of an error for `StreamWriter.error`."""
    error_message: Callable[[GatewayError], str] = lambda error: error.detail
    """Return the message of an error for `StreamWriter.error`."""
    streamed_errors: frozenset[str] = frozenset()
    """Codes of errors that clients recognise only in a stream, so that a streamed request gets them with status 200."""
    stream_writer: Callable[[ReplyContext], StreamWriter] | None = None
    """Create the writer of one client stream. None: the protocol has no streams."""
    check_request: Callable[[JsonObject], None] = _accept_all
    """Raise `Unsupported` for features that no provider can offer through a stateless gateway."""
    passthrough_request: Callable[..., JsonObject] = _passthrough_unchanged
    """`passthrough_request(document, stream=…)` returns the request to send to a provider of the same protocol."""
    withheld_events: Callable[[JsonObject], Callable[[RawEvent], bool] | None] = lambda _document: None
    """Return a predicate for events to withhold from this client: those that only the gateway requested. Or None."""
    requested_tier: Callable[[JsonObject], str | None] = _standard_tier
    """Return the service tier that a request asks for, as `AttemptRecord` names it; None for the standard tier."""
    field_names: Mapping[str, str] = {}
    """This protocol's names for fields of `Conversation` and kinds of parts, for error messages."""
    namespace: str | None = None
    """Path prefix below which all errors, even for unknown paths, are written in this protocol."""
    unknown_path: str = "docs/API.md lists the paths"
    """Advice in the error message for an unknown path."""
    credential_headers: tuple[bytes, ...] = (b"authorization",)
    """Request headers that may hold the client's key."""
    key_parameter: str | None = None
    """Query parameter that may hold the client's key; honoured on this protocol's paths only."""
    id_headers: tuple[bytes, ...] = (b"x-request-id",)
    """Response headers that hold the request id."""
    forwarded_headers: tuple[bytes, ...] = ()
    """Request headers that are forwarded, only to providers of the same protocol."""
    is_translatable: bool = True
    """True if requests can be translated for providers of other protocols, by way of a `Conversation`."""
    translations: Mapping[str, DocumentTranslation] = {}
    """Direct translations, by the name of the provider's protocol."""
    management_path: str | None = None
    """Path of a part of the vendor's own management API that the gateway's has in the same shape."""
    count_tokens: TokenCount | None = None
    models: ModelList | None = None
    user_fields: tuple[tuple[str, ...], ...] = ()
    """Paths of request fields that identify the customer; the first one present is used."""
    session_fields: tuple[tuple[str, ...], ...] = ()
    """Paths of request fields that identify the session; the first one present is used."""
    settings_fields: tuple[str, ...] = ()
    """Objects in the request that contain `output_fields` and `choice_fields`. Empty: the request itself does."""
    output_fields: tuple[str, ...] = ()
    """Request fields that limit the tokens of an answer."""
    choice_fields: tuple[str, ...] = ()
    """Request fields that set the number of answers."""
    input_fields: tuple[str, ...]
    """Request fields that the model reads, from which input tokens are estimated."""
    uncached_fields: frozenset[str]
    """Request fields left out of the cache key, since they do not change the answer."""
