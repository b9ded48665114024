"""What the rest of the gateway knows of a protocol: each package of `protocols/` describes itself in one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.errors import GatewayError
from llm_gateway.protocols.base import Head, Piece, Read, StreamWriter

Document = dict[str, Any]
PARTS = ("audio", "file", "image", "tool_calls", "tool_result")
"""Parts of messages: a client calls the field in which they stand by its protocol's name."""


def _accept(_document: Document) -> None:
    """Refuse nothing."""


def _pass_all(document: Document, *, stream: bool) -> Document:
    """Change nothing."""
    return document


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol that clients speak to the gateway, at `path`.

    `surface` names its endpoint in records and logs. `credential_headers` hold a client's key, `id_headers` the id of
    the request in a response, and `forwarded_headers` are those that only a provider of the same protocol understands.
    `field_names` are its words for fields of `Conversation` that it calls otherwise. `is_translatable`: a provider of
    another protocol can be asked, too; otherwise requests only pass through.
    """

    name: str
    surface: str
    path: str
    read_request: Callable[[Document], Read]
    read_reply: Callable[[bytes], Completion]
    write_reply: Callable[[Completion, Head], bytes]
    write_error: Callable[[GatewayError, str], bytes]
    stream_writer: Callable[[Head], StreamWriter] | None = None
    check: Callable[[Document], None] = _accept
    """Raise Unsupported for what no provider can be asked through a gateway that keeps nothing."""
    pass_on: Callable[..., Document] = _pass_all
    """`pass_on(document, stream=…)` returns what a provider of the same protocol is sent instead."""
    hides: Callable[[Document], Callable[[Piece], bool] | None] = lambda _document: None
    """Whether a provider's event is kept from a client with this document, since only the gateway asked for it."""
    field_names: Mapping[str, str] = {}
    credential_headers: tuple[bytes, ...] = (b"authorization",)
    id_headers: tuple[bytes, ...] = (b"x-request-id",)
    forwarded_headers: tuple[bytes, ...] = ()
    is_translatable: bool = True
