"""Write a client's streamGenerateContent stream: turn canonical chunks into server-sent events or a JSON array.

Source: https://ai.google.dev/api/generate-content#v1beta.models.streamGenerateContent. Every event is a complete
GenerateContentResponse, so a tool call is written when it is complete. Each candidate (choice) has these states:

    first chunk ──▶ no open call ── ToolStart ──▶ open call ──┐ ToolDelta: adds to the arguments
                     │ ▲    ▲                      │   ▲──────┘
                     └─┘    └──────────────────────┘ any other chunk or end(): writes the complete call,
        text, thinking: written at once              then the chunk (ToolStart opens the next call)

`ChoiceEnd` and `UsageUpdate` are kept until `end`, which writes one last event with the finish reasons of all
candidates and the usage. `ReplyStart` sets the model's name. `error` writes an error document instead, in any state.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from llm_gateway.domain.conversation import (
    BillingUpdate,
    ChoiceEnd,
    Chunk,
    RefusalDelta,
    ReplyStart,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    UsageUpdate,
    VendorPartDelta,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import EventStream, ReplyContext
from llm_gateway.protocols.delta_serializer import DeltaSerializer
from llm_gateway.protocols.gemini.errors import STREAM_CODES, error_document
from llm_gateway.protocols.gemini.reply import candidate_document, response_document, shows_thoughts, write_part
from llm_gateway.protocols.gemini.usage import write_usage
from llm_gateway.sse import encode_event


class _Candidate:
    """The open tool call of one candidate, and the text so far of its open thought, which the signature covers."""

    __slots__ = ("arguments", "call", "delta_serializer", "thought")

    def __init__(self) -> None:
        self.delta_serializer = DeltaSerializer()
        self.call: ToolStart | None = None
        self.arguments: list[str] = []
        self.thought: list[str] = []


class StreamWriter(EventStream):
    """A `StreamWriter` for `alt=sse`: server-sent events."""

    keep_alive = b"\n"
    """An empty line, not a comment: google-genai parses every line without `data:` as JSON."""

    def __init__(self, context: ReplyContext) -> None:
        self._context = context
        self._model = context.model
        self._shows = shows_thoughts(context.document)
        self._candidates: dict[int, _Candidate] = {}
        self._finished: dict[int, ChoiceEnd] = {}
        self._usage: Usage | None = None

    def write(self, chunk: Chunk) -> bytes:
        """Return the events for one chunk (see `protocols/contract.py`)."""
        if isinstance(chunk, ReplyStart):
            self._model = chunk.model or self._model
            return b""
        if isinstance(chunk, UsageUpdate):
            self._usage = chunk.usage
            return b""
        if isinstance(chunk, VendorPartDelta | BillingUpdate):
            return b""
        candidate = self._candidates.get(chunk.choice)
        if candidate is None:
            candidate = self._candidates[chunk.choice] = _Candidate()
        if isinstance(chunk, ChoiceEnd):
            self._finished[chunk.choice] = chunk
            return self._flush(candidate)
        return b"".join([self._write(candidate, each) for each in candidate.delta_serializer.take(chunk)])

    def end(self) -> bytes:
        """Return the rest of a complete stream: open calls, then the event with finish reasons and usage."""
        rest = [self._flush(candidate) for candidate in self._candidates.values()]
        # Chats of google-genai discard an answer if one of its events has no part, so the last event has an empty text.
        candidates = [
            candidate_document(choice, [{"text": ""}], self._finished.get(choice, ChoiceEnd()).reason)
            for choice in sorted(self._candidates or (0,))
        ]
        document = response_document(self._context, self._model, candidates)
        if self._usage is not None:
            document["usageMetadata"] = write_usage(self._usage)
        return b"".join(rest) + self._event(document) + self.close()

    def error(self, message: str, code: str) -> bytes:
        """Return an event with an error document, which ends a stream that failed."""
        return self._event(error_document(message, code, STREAM_CODES.get(code, 500))) + self.close()

    def _write(self, candidate: _Candidate, chunk: Chunk) -> bytes:
        if isinstance(chunk, ToolDelta):
            if candidate.call is not None and candidate.call.call == chunk.call:
                candidate.arguments.append(chunk.arguments)
            return b""
        complete_call = self._call(candidate)
        if isinstance(chunk, ToolStart):
            candidate.call = chunk
        elif isinstance(chunk, TextDelta | RefusalDelta):
            return complete_call + self._text(chunk)
        elif isinstance(chunk, ThinkingDelta):
            return complete_call + self._thought(candidate, chunk)
        return complete_call

    def _text(self, chunk: TextDelta | RefusalDelta) -> bytes:
        signature = logprobs = None
        if isinstance(chunk, TextDelta):
            signature, logprobs = chunk.signature, chunk.logprobs
        if not chunk.text and signature is None:
            return b""
        part = write_part(Text(text=chunk.text, signature=signature), shows=self._shows)
        return self._part(chunk.choice, part, logprobs)

    def _thought(self, candidate: _Candidate, chunk: ThinkingDelta) -> bytes:
        if not self._shows:
            return b""
        pieces = candidate.thought
        pieces.append(chunk.text)
        if chunk.signature is None and chunk.redacted is None:
            return self._part(chunk.choice, {"text": chunk.text, "thought": True}) if chunk.text else b""
        thought = Thinking(text="".join(pieces), signature=chunk.signature, redacted=chunk.redacted)
        pieces.clear()
        part = write_part(thought, shows=True)
        return self._part(chunk.choice, None if part is None else {**part, "text": chunk.text})

    def _flush(self, candidate: _Candidate) -> bytes:
        """Write the chunks of a candidate that were held back, and its open call."""
        held = b"".join([self._write(candidate, each) for each in candidate.delta_serializer.end()])
        return held + self._call(candidate)

    def _call(self, candidate: _Candidate) -> bytes:
        """Write the open call, if there is one, as a complete `functionCall` part."""
        begin = candidate.call
        if begin is None:
            return b""
        arguments = "".join(candidate.arguments)
        candidate.call, candidate.arguments = None, []
        call = ToolCall(id=begin.id, name=begin.name, arguments=arguments, signature=begin.signature)
        return self._part(begin.choice, write_part(call, shows=self._shows))

    def _part(self, choice: int, part: dict[str, Any] | None, logprobs: dict[str, Any] | None = None) -> bytes:
        if part is None:
            return b""
        candidates = [candidate_document(choice, [part], logprobs=logprobs)]
        return self._event(response_document(self._context, self._model, candidates))

    def _event(self, document: dict[str, Any]) -> bytes:
        return encode_event(msgspec.json.encode(document))


class ArrayWriter(StreamWriter):
    """A `StreamWriter` for the default without `alt=sse`: one JSON array, written element by element."""

    content_type = b"application/json; charset=utf-8"
    is_raw = False

    def __init__(self, context: ReplyContext) -> None:
        super().__init__(context)
        self._has_begun = False

    def passthrough_event(self, raw: bytes) -> bytes:
        """Convert a provider's server-sent event to an element of the array."""
        lines = [line[5:].removeprefix(b" ") for line in raw.split(b"\n") if line.startswith(b"data:")]
        return self._element(b"\n".join(lines)) if lines else b""

    def close(self) -> bytes:
        """Return the end of the array."""
        return b"\n]\n" if self._has_begun else b"[]\n"

    def _event(self, document: dict[str, Any]) -> bytes:
        return self._element(msgspec.json.encode(document))

    def _element(self, data: bytes) -> bytes:
        opening = b"\n,\r\n" if self._has_begun else b"["
        self._has_begun = True
        return opening + data


def open_writer(context: ReplyContext) -> StreamWriter:
    """Return the writer for the format in the query string: server-sent events for `alt=sse`, else a JSON array."""
    pairs = parse_qsl(context.query.decode("latin-1"))
    return StreamWriter(context) if ("alt", "sse") in pairs or ("$alt", "sse") in pairs else ArrayWriter(context)
