"""What the rest of the gateway knows of a protocol: each package of `protocols/` describes itself in one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.errors import GatewayError
from llm_gateway.protocols.contract import ParsedRequest, RawEvent, ReplyContext, StreamWriter, UpstreamBody

Document = dict[str, Any]
PARTS = ("audio", "file", "image", "tool_calls", "tool_result")
"""Parts of messages: a client calls the field in which they stand by its protocol's name."""
MODEL = "{model}"
"""In the path of a `Route`: the model's name, slashes included. What follows it begins with a colon."""


def _accept(_document: Document) -> None:
    """Refuse nothing."""


def _pass_all(document: Document, *, stream: bool) -> Document:
    """Change nothing."""
    return document


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A path that takes POST. Where `{model}` is not in it, the body names the model in `model`.

    `stream` is whether it answers in a stream; None: if the body says `stream: true`. `operation` and `summary`
    describe it in the OpenAPI document.
    """

    path: str
    operation: str
    summary: str
    stream: bool | None = False

    @property
    def names_model(self) -> bool:
        """Whether the model's name is in the path."""
        return MODEL in self.path


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints that estimate how many tokens a request will take. `request_of` returns that request."""

    routes: tuple[Route, ...]
    write: Callable[[int], bytes]
    request_of: Callable[[Document], Document] = lambda document: document


class ListedModel(msgspec.Struct, frozen=True):
    """A model that clients may ask for by name; `created_ms` is when its provider was configured (0: never)."""

    name: str
    owner: str
    created_ms: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The list of models at each of `paths`, and one of them below it.

    Protocols may share a path: a request belongs to the one whose `markers` (headers) or key parameter it carries, else
    to the first in the registry.
    """

    paths: tuple[str, ...]
    operation: str
    write: Callable[[Sequence[ListedModel]], bytes]
    write_one: Callable[[ListedModel], bytes]
    markers: tuple[bytes, ...] = ()


class DocumentTranslation(msgspec.Struct, frozen=True, kw_only=True):
    """Requests and replies as another protocol has them, where there is no conversation in them.

    `write(document, model)` returns the request, `read(body)` a reply as the client's own protocol has it.
    """

    write: Callable[[Document, str], UpstreamBody]
    read: Callable[[bytes], bytes]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol that clients speak to the gateway, on `routes`. `vendor` is whose it is.

    `surface` names its endpoint in records and logs. `credential_headers` hold a client's key, `id_headers` the id of
    the request in a response, and `forwarded_headers` are those that only a provider of the same protocol understands.
    `field_names` are its words for fields of `Conversation` that it calls otherwise. `is_translatable`: a provider of
    another protocol can be asked, too, by way of a conversation; otherwise requests pass through, or are translated by
    one of `translations`, keyed by the other protocol's name.

    Fields of a request's document, by what they are: `user_fields` (paths) name the customer, the first that is there;
    `output_fields` limit an answer's tokens, and `choice_fields` say how many answers, both in the objects
    `settings_fields` where there are such; `weighed_fields` hold what the model reads; `uncached_fields` are no part of
    the question, so that answers may be shared regardless of them.
    """

    name: str
    vendor: str
    surface: str
    routes: tuple[Route, ...]
    read_request: Callable[[Document], ParsedRequest]
    read_reply: Callable[[bytes], Completion]
    write_reply: Callable[[Completion, ReplyContext], bytes]
    write_error: Callable[[GatewayError, str], bytes]
    error_schema: Document
    """JSON schema of `write_error`'s documents."""
    stream_writer: Callable[[ReplyContext], StreamWriter] | None = None
    check: Callable[[Document], None] = _accept
    """Raise Unsupported for what no provider can be asked through a gateway that keeps nothing."""
    pass_on: Callable[..., Document] = _pass_all
    """`pass_on(document, stream=…)` returns what a provider of the same protocol is sent instead."""
    hides: Callable[[Document], Callable[[RawEvent], bool] | None] = lambda _document: None
    """Whether a provider's event is kept from a client with this document, since only the gateway asked for it."""
    field_names: Mapping[str, str] = {}
    namespace: str | None = None
    """All paths below it are this protocol's, and errors there are written by it."""
    unknown_path: str = "docs/API.md lists what there is"
    """What clients are told of a path that the protocol does not have."""
    credential_headers: tuple[bytes, ...] = (b"authorization",)
    key_parameter: str | None = None
    """The query parameter that may hold a client's key, on this protocol's paths only."""
    id_headers: tuple[bytes, ...] = (b"x-request-id",)
    forwarded_headers: tuple[bytes, ...] = ()
    is_translatable: bool = True
    translations: Mapping[str, DocumentTranslation] = {}
    count_tokens: TokenCount | None = None
    models: ModelList | None = None
    user_fields: tuple[tuple[str, ...], ...] = ()
    settings_fields: tuple[str, ...] = ()
    output_fields: tuple[str, ...] = ()
    choice_fields: tuple[str, ...] = ()
    weighed_fields: tuple[str, ...]
    uncached_fields: frozenset[str]
