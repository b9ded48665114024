"""A client's stream of streamGenerateContent: https://ai.google.dev/api/generate-content#v1beta.models.streamGenerateContent.

Every event is a GenerateContentResponse. With `alt=sse` they are server-sent events, without it one JSON array.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from llm_gateway.domain.conversation import (
    Begin,
    Chunk,
    Counted,
    Finish,
    ForeignDelta,
    RefusalDelta,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegin,
    ToolCall,
    ToolDelta,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import EventStream, ReplyContext
from llm_gateway.protocols.delta_serializer import DeltaSerializer
from llm_gateway.protocols.gemini.errors import STREAM_CODES, error_document
from llm_gateway.protocols.gemini.reply import candidate_document, response_document, shows_thoughts, write_part
from llm_gateway.protocols.gemini.usage import write_usage
from llm_gateway.sse import encode_event


class _Candidate:
    """What is held back of one candidate: a call until it is whole, and a thought's text until it is signed."""

    __slots__ = ("arguments", "call", "delta_serializer", "thought")

    def __init__(self) -> None:
        self.delta_serializer = DeltaSerializer()
        self.call: ToolBegin | None = None
        self.arguments: list[str] = []
        self.thought: list[str] = []


class StreamWriter(EventStream):
    """Writes server-sent events. Calls are written whole; the finish reasons and the usage come with the last event."""

    keep_alive = b"\n"
    """Keeps a quiet connection open. No comment: google-genai takes each line without `data:` for JSON."""

    def __init__(self, context: ReplyContext) -> None:
        self._context = context
        self._model = context.model
        self._shows = shows_thoughts(context.document)
        self._candidates: dict[int, _Candidate] = {}
        self._finished: dict[int, Finish] = {}
        self._usage: Usage | None = None

    def write(self, chunk: Chunk) -> bytes:
        """As in `StreamWriter`."""
        if isinstance(chunk, Begin):
            self._model = chunk.model or self._model
            return b""
        if isinstance(chunk, Counted):
            self._usage = chunk.usage
            return b""
        if isinstance(chunk, ForeignDelta):
            return b""
        candidate = self._candidates.get(chunk.choice)
        if candidate is None:
            candidate = self._candidates[chunk.choice] = _Candidate()
        if isinstance(chunk, Finish):
            self._finished[chunk.choice] = chunk
            return self._rest(candidate, chunk.choice)
        return b"".join([self._write(candidate, each) for each in candidate.delta_serializer.take(chunk)])

    def end(self) -> bytes:
        """As in `StreamWriter`."""
        rest = [self._rest(candidate, choice) for choice, candidate in self._candidates.items()]
        # google-genai's chats keep no answer in which an event has no part, so the last one has an empty text.
        candidates = [
            candidate_document(choice, [{"text": ""}], self._finished.get(choice, Finish()).reason)
            for choice in sorted(self._candidates or (0,))
        ]
        document = response_document(self._context, self._model, candidates)
        if self._usage is not None:
            document["usageMetadata"] = write_usage(self._usage)
        return b"".join(rest) + self._event(document) + self.close()

    def error(self, message: str, code: str) -> bytes:
        """As in `StreamWriter`."""
        return self._event(error_document(message, code, STREAM_CODES.get(code, 500))) + self.close()

    def _write(self, candidate: _Candidate, chunk: Chunk) -> bytes:
        if isinstance(chunk, ToolDelta):
            if candidate.call is not None and candidate.call.call == chunk.call:
                candidate.arguments.append(chunk.arguments)
            return b""
        whole = self._call(candidate)
        if isinstance(chunk, ToolBegin):
            candidate.call = chunk
        elif isinstance(chunk, TextDelta | RefusalDelta):
            return whole + self._text(chunk)
        elif isinstance(chunk, ThinkingDelta):
            return whole + self._thought(candidate, chunk)
        return whole

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

    def _rest(self, candidate: _Candidate, choice: int) -> bytes:
        """Write what was held back of a candidate."""
        held = b"".join([self._write(candidate, each) for each in candidate.delta_serializer.end()])
        return held + self._call(candidate)

    def _call(self, candidate: _Candidate) -> bytes:
        """Write the open call, if there is one: it is whole."""
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
    """Writes the same stream as one JSON array, an element as soon as it is there: the default without `alt=sse`."""

    content_type = b"application/json; charset=utf-8"
    is_raw = False

    def __init__(self, context: ReplyContext) -> None:
        super().__init__(context)
        self._has_begun = False

    def pass_on(self, raw: bytes) -> bytes:
        """As in `StreamWriter`."""
        lines = [line[5:].removeprefix(b" ") for line in raw.split(b"\n") if line.startswith(b"data:")]
        return self._element(b"\n".join(lines)) if lines else b""

    def close(self) -> bytes:
        """As in `StreamWriter`."""
        return b"\n]\n" if self._has_begun else b"[]\n"

    def _event(self, document: dict[str, Any]) -> bytes:
        return self._element(msgspec.json.encode(document))

    def _element(self, data: bytes) -> bytes:
        opening = b"\n,\r\n" if self._has_begun else b"["
        self._has_begun = True
        return opening + data


def open_writer(context: ReplyContext) -> StreamWriter:
    """Return the writer of the form that the query string asks for: events with `alt=sse`, else an array."""
    pairs = parse_qsl(context.query.decode("latin-1"))
    return StreamWriter(context) if ("alt", "sse") in pairs or ("$alt", "sse") in pairs else ArrayWriter(context)
