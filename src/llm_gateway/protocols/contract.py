"""Interfaces that each protocol package implements: request and reply functions, stream readers and writers, errors.

A protocol package holds pure functions, one file for each kind of message. Its `Descriptor` (`descriptor.py`) lists
those that serve clients; a `ProtocolCodec` (`providers/dialect.py`) lists those that call providers.

    file                function                                              direction
    request_reader.py   read_request(document) -> ParsedRequest               client's request  -> conversation
    request_writer.py   write_request(conversation, model, *, stream)         conversation -> provider's request
                            -> UpstreamBody
    reply.py            read_reply(body) -> Completion                        provider's reply  -> completion
                        write_reply(completion, context) -> bytes             completion   -> client's reply
    stream_reader.py    StreamReader().take(event) -> list[Chunk]             provider's events -> chunks
    stream_writer.py    StreamWriter(context).write(chunk) -> bytes           chunks       -> client's events
    errors.py           write_error(error, request_id) -> bytes               error        -> client's error body

Call order for one request that a provider of another protocol answers:

    read_request -> write_request -> read_reply -> write_reply                              whole reply
    read_request -> write_request -> StreamReader.take ... -> StreamWriter.write ... end    streamed reply

`write_error` ends a request that failed before any byte of its response was sent, `StreamWriter.error` one after that.

If the provider speaks the client's protocol, `read_request`, `write_request` and `write_reply` are not called: the
request document and the reply body pass through. `read_reply` and `StreamReader` still run, to count tokens.

Example, a streamed reply translated from Anthropic's protocol to OpenAI's:

    reader, writer = anthropic_messages.StreamReader(), openai_chat.StreamWriter(context)
    for event in events:
        for chunk in reader.take(event):
            await send(writer.write(chunk))
    await send(writer.end())
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import msgspec

from llm_gateway.domain.conversation import Chunk, Conversation
from llm_gateway.sse import COMMENT, Event

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object: the body of a request or response, or an object inside it."""
PARSE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises for JSON that is invalid, not UTF-8, or nested too deeply."""


class Unreadable(Exception):
    """The client's request violates its protocol. `field` is the path of the invalid value (`messages[2].content`)."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Unsupported(Exception):
    """The provider's protocol cannot express a requested feature, and dropping the feature would change the answer.

    `field` is a field of `Conversation` or a kind of part (`n`, `logit_bias`, `audio`). The error that the client
    receives names the field as the client's protocol does (`Descriptor.field_names`). `known`: the valid names beside
    an unknown field, from which one may be suggested.
    """

    def __init__(self, field: str, why: str, known: frozenset[str] = frozenset()) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why
        self.known = known


class Malformed(Exception):
    """The provider's reply or event violates its protocol. The message says how."""


class UpstreamError(Exception):
    """The provider reported an error inside its stream. `type` is the provider's error type.

    `error` is the provider's error object: what would stand in the body of an error response.
    """

    def __init__(
        self,
        message: str,
        type: str = "",  # noqa: A002 - the vendors' own name
        error: JsonObject | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.type = type
        self.error = {"message": message} if error is None else error


class ParsedRequest(msgspec.Struct, frozen=True):
    """The conversation in a client's request. `dropped` names the request's fields that a conversation cannot hold."""

    conversation: Conversation
    dropped: tuple[str, ...] = ()


class ReplyContext(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a client's request that its reply repeats: request id, model name, time, document, query.

    `request_id` is the gateway's UUID; protocols derive their own ids from it (`chatcmpl-…`). `model` is the name
    shown to the client, `created_s` is in seconds since 1970, `document` is the client's request body and `query`
    the query string of its URL.
    """

    request_id: str
    model: str
    created_s: int
    document: dict[str, Any]
    query: bytes = b""


class UpstreamBody(msgspec.Struct, frozen=True):
    """The body of an upstream request. `dropped` names the fields of `Conversation` that the body does not express."""

    document: dict[str, Any]
    dropped: tuple[str, ...] = ()


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a provider's stream: its bytes as received, and the chunks read from it."""

    raw: bytes
    chunks: list[Chunk]


class StreamReader(Protocol):
    """A parser of one provider stream: server-sent events in, canonical chunks out.

    Create one reader per stream. Call `take` once per event, in the order received, and stop reading the connection
    once `is_done` is True; events received together with the last one may still be passed to `take`. Do not call
    `take` after it raised. No call is needed when the connection ends.

        reader = StreamReader()
        for event in splitter.take(data):
            chunks += reader.take(event)
            if reader.is_done:
                break

    A reader yields at most one `ReplyStart`, before all other chunks. `UsageUpdate` may repeat; the last one counts.
    """

    is_done: bool
    """True once the protocol's end marker was read (`[DONE]`, `response.completed`). A stream without it was cut."""
    has_own_end: bool
    """True if the protocol has an end marker. Otherwise a stream is complete once every choice has finished."""

    def take(self, event: Event) -> list[Chunk]:
        """Return the chunks of the provider's next event, possibly none.

        Raises:
            Malformed: the event violates this protocol.
            UpstreamError: the event reports an error of the provider.
        """
        ...


class StreamWriter(Protocol):
    """An encoder of one client stream: canonical chunks in, bytes of the response body out.

    Create one writer per stream. The provider's protocol decides which methods are called; `error` may be called
    before the first `write`, and nothing is called after `end`, `close` or `error`:

        other protocol                 write(chunk) ...            end()      or  error(message, code)
        same protocol, `is_raw`        (bytes unchanged)           close()    or  error(message, code)
        same protocol, not `is_raw`    passthrough_event(raw) ...  close()    or  error(message, code)
        cached reply                   write(chunk) ...            end()

        writer = StreamWriter(context)
        body = b"".join(writer.write(chunk) for chunk in chunks) + writer.end()

    Chunks come in the order of the provider's stream: `ReplyStart` first, if there is one, and `UsageUpdate` at any
    time, even after the last `ChoiceEnd`. Subclass `EventStream` for a protocol whose streams are server-sent events.
    """

    content_type: bytes
    """Value of the response's content-type header."""
    keep_alive: bytes
    """Bytes that clients ignore, sent while the provider is silent so that proxies keep the connection open."""
    is_raw: bool
    """True if events of a provider of the same protocol are sent unchanged; `passthrough_event` is not called then."""

    def passthrough_event(self, raw: bytes) -> bytes:
        """Convert one server-sent event of a provider of the same protocol into this stream's framing.

        Called once per event instead of `write`, and only if `is_raw` is False: e.g. Gemini's JSON array.
        """
        ...

    def close(self) -> bytes:
        """Return the bytes that end a stream of passed-on events: e.g. the bracket that closes a JSON array.

        Called after the last passed-on event. Not called after `end` or `error`, which write these bytes themselves.
        """
        ...

    def write(self, chunk: Chunk) -> bytes:
        """Encode a chunk as events of this protocol; return b"" if the protocol has no event for it (yet)."""
        ...

    def end(self) -> bytes:
        """Return the last events of a complete reply: everything held back, usage, and the protocol's end marker."""
        ...

    def error(self, message: str, code: str) -> bytes:
        """Return the event that ends a reply which failed after its first bytes were sent.

        It must be an explicit error that no client takes for the end of a complete reply. `code` is the gateway's
        error code (`errors.py`).
        """
        ...


class EventStream:
    """Base of the `StreamWriter`s whose streams are server-sent events that pass through unchanged."""

    content_type = b"text/event-stream; charset=utf-8"
    keep_alive = COMMENT
    is_raw = True

    def passthrough_event(self, raw: bytes) -> bytes:
        """Return the event unchanged."""
        return raw

    def close(self) -> bytes:
        """Return b"": the provider's own last event has ended the stream."""
        return b""
