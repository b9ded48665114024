"""The contract of a protocol package: how it reads and writes requests, replies and streams, and the errors it raises.

A protocol is a package of pure functions, one file for each thing that goes over the line:

    request_reader.py   read_request(document) -> ParsedRequest                 a client's request (surfaces)
    request_writer.py   write_request(conversation, model, *, stream) -> UpstreamBody   a provider's request (dialects)
    reply.py            read_reply(body) -> Completion                          a provider's reply (dialects)
                        write_reply(completion, context) -> bytes               a client's reply (surfaces)
    stream_reader.py    StreamReader()                                          a provider's events to chunks (dialects)
    stream_writer.py    StreamWriter(context)                                   chunks to a client's events (surfaces)
    errors.py           write_error(error, request_id) -> bytes                 an error in a client's shape (surfaces)
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from llm_gateway.domain.conversation import Chunk, Conversation
from llm_gateway.sse import COMMENT, Event

PARSE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)


class Unreadable(Exception):
    """A client's document is not what its protocol says. `field` is where (`messages[2].content`), the message what."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Unsupported(Exception):
    """A provider's protocol cannot express what a conversation asks for, and leaving it out would change the answer.

    `field` is a field of `Conversation`, or a part of it in words of the canonical form (`n`, `logit_bias`, `audio`);
    the client is told its own protocol's name for it (`field_names` of its descriptor). Of a field that does not exist,
    `known` are the fields beside it that do: one of them may be meant.
    """

    def __init__(self, field: str, why: str, known: frozenset[str] = frozenset()) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why
        self.known = known


class Malformed(Exception):
    """A provider's reply or event is none of its protocol. The message says what is wrong."""


class UpstreamError(Exception):
    """A provider said in its stream that it failed. `type` is its own word for it."""

    def __init__(self, message: str, type: str = "") -> None:  # noqa: A002 - the vendors' own name
        super().__init__(message)
        self.message = message
        self.type = type


class ParsedRequest(msgspec.Struct, frozen=True):
    """A client's request as a conversation. `dropped` names the fields of the document that it cannot carry."""

    conversation: Conversation
    dropped: tuple[str, ...] = ()


class ReplyContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply to a client repeats of its request: ids, model name, and the request's document.

    `request_id` is ours (a UUID), from which a protocol makes its own ids (`chatcmpl-…`); `model` is the name shown to
    the client, `created_s` seconds since 1970, and `document` the client's request, of which a reply repeats parts.
    `query` is the query string of its path.
    """

    request_id: str
    model: str
    created_s: int
    document: dict[str, Any]
    query: bytes = b""


class UpstreamBody(msgspec.Struct, frozen=True):
    """The body of an upstream request. `dropped` names the fields of `Conversation` that it cannot express."""

    document: dict[str, Any]
    dropped: tuple[str, ...] = ()


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """A provider's event: its bytes as received, and the chunks read from it. A cached reply's events have no bytes."""

    raw: bytes
    chunks: list[Chunk]


class StreamReader(Protocol):
    """Reads a provider's stream. One for each stream."""

    is_done: bool
    """The protocol's own end has been seen: a stream that ends without it was cut."""
    has_own_end: bool
    """Whether the protocol has an end of its own; else a stream is complete once every choice is."""

    def take(self, event: Event) -> list[Chunk]:
        """Return the chunks that the event holds.

        Raises:
            Malformed: it is no event of this protocol.
            UpstreamError: the provider failed.
        """
        ...


class StreamWriter(Protocol):
    """Writes a client's stream. One for each stream; what differs from server-sent events is in `EventStream`."""

    content_type: bytes
    keep_alive: bytes
    """What is written while nothing comes, so that proxies do not close the connection."""
    is_raw: bool
    """Whether the events of a provider of the same protocol are passed on as they are, without `pass_on`."""

    def pass_on(self, raw: bytes) -> bytes:
        """Return a provider's own event, a server-sent one, as this stream has it."""
        ...

    def close(self) -> bytes:
        """Return what ends a stream of events that were passed on; `end` and `error` write it themselves."""
        ...

    def write(self, chunk: Chunk) -> bytes:
        """The events that tell of the chunk, in one piece; empty where the protocol has none for it."""
        ...

    def end(self) -> bytes:
        """What ends a complete stream."""
        ...

    def error(self, message: str, code: str) -> bytes:
        """What ends a stream that failed in its middle: an explicit error, never the end of a complete one.

        `code` is the gateway's own (`errors.py`).
        """
        ...


class EventStream:
    """Server-sent events: what a `StreamWriter` that writes them shares with all others."""

    content_type = b"text/event-stream; charset=utf-8"
    keep_alive = COMMENT
    is_raw = True

    def pass_on(self, raw: bytes) -> bytes:
        """As in `StreamWriter`."""
        return raw

    def close(self) -> bytes:
        """As in `StreamWriter`."""
        return b""
