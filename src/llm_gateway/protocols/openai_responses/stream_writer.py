"""Write a client's Responses API stream: turn canonical chunks into server-sent events.

The output is a list of items, one open at a time (`_open`). The labels are chunk: events, without the prefix
`response.`; a chunk that belongs to another kind of item first closes the open one.

    not begun ── ReplyStart or first content: created, in_progress ──▶ no item open
                                                                    │       ▲
            text, refusal, reasoning, ToolStart: output_item.added  │       │ another kind of chunk, a ToolStart,
                                                                    ▼       │ a signature, or `end`: output_item.done
     ┌─ item open ──────────────────────────────────────────────────────────┴─────────────────────────────────────┐
     │ message    first chunk of a kind: content_part.added;  text: output_text.delta;  refusal: refusal.delta    │
     │            another kind, or the item's end: output_text.done or refusal.done, content_part.done            │
     │ thinking   first text: reasoning_summary_part.added;  text: reasoning_summary_text.delta                   │
     │            the item's end: reasoning_summary_text.done, reasoning_summary_part.done                        │
     │ call N     ToolDelta of call N: function_call_arguments.delta                                              │
     │            the item's end: function_call_arguments.done; of a custom tool custom_tool_call_input.delta     │
     │            and .done, since its input can be read only from complete arguments                             │
     └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

`end` closes the open item and writes `completed` or `incomplete`, with the whole response. `error` writes `error`, or
`failed` with the response for one of `FAILURES`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    BillingUpdate,
    ChoiceEnd,
    Chunk,
    Refusal,
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
from llm_gateway.domain.output_estimate import estimated_output_of
from llm_gateway.domain.usage import Usage
from llm_gateway.errors import CONTEXT_LENGTH
from llm_gateway.protocols.contract import EventStream, ReplyContext
from llm_gateway.protocols.delta_serializer import DeltaSerializer
from llm_gateway.protocols.openai_responses.logprobs import without_bytes, write_logprobs
from llm_gateway.protocols.openai_responses.reply import (
    call_item,
    content_of,
    item_of,
    response_document,
)
from llm_gateway.protocols.openai_responses.tools import Origin, restorable_origins, restored_call
from llm_gateway.sse import encode_event

FAILURES = frozenset({CONTEXT_LENGTH})
"""Error codes that Codex looks for in `response.failed` only, not in an `error` event or an error response. With any
other end it sends the same request again: https://github.com/openai/codex, sse/responses.rs (2026-11-27)."""


class StreamWriter(EventStream):
    """A `contract.StreamWriter` of Responses events: the output items in sequence, then the whole response.

    Writes only the choice of which content comes first: the protocol has no more. Usage that the provider did not
    report is estimated, as in `ReplyAssembler`.
    """

    def __init__(self, context: ReplyContext) -> None:
        self._context = context
        self._model = context.model
        self._output: list[dict[str, Any]] = []
        self._finish = ChoiceEnd()
        self._usage: Usage | None = None
        self._texts: list[str] = []  # all pieces of the answer, to estimate usage from
        self._sequence = -1
        self._choice: int | None = None
        self._has_begun = False
        self._open = ""  # the open item's kind: message, thinking or "call N"
        self._index = -1  # output_index of the open item
        self._part = -1  # content_index of the message's open part
        self._part_kind = ""  # output_text or refusal; empty if no part is open
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._content: list[dict[str, Any]] = []
        self._seal = ThinkingDelta()
        self._call = ToolCall(id="", name="", arguments="")
        self._origins = restorable_origins(context.document.get("tools"))
        self._origin: Origin | None = None
        self._delta_serializer = DeltaSerializer()

    def write(self, chunk: Chunk) -> bytes:
        """Encode a chunk; see `contract.StreamWriter.write`. Chunks of other choices are dropped."""
        if isinstance(chunk, VendorPartDelta | BillingUpdate):
            return b""
        if not isinstance(chunk, ReplyStart | UsageUpdate):
            if self._choice is None:
                self._choice = chunk.choice
            elif chunk.choice != self._choice:
                return b""
        return b"".join([self._write(each) for each in self._delta_serializer.take(chunk)])

    def _write(self, chunk: Chunk) -> bytes:
        if isinstance(chunk, ReplyStart):
            self._model = chunk.model or self._model
            return self._begin()
        if isinstance(chunk, TextDelta | RefusalDelta):
            return self._write_text(chunk)
        if isinstance(chunk, ThinkingDelta):
            return self._write_thinking(chunk)
        if isinstance(chunk, ToolStart | ToolDelta):
            return self._write_call(chunk)
        if isinstance(chunk, UsageUpdate):
            self._usage = chunk.usage
        elif isinstance(chunk, ChoiceEnd):
            self._finish = chunk
        return b""

    def end(self) -> bytes:
        """Return the rest of the open item and the whole response."""
        held = b"".join([self._write(each) for each in self._delta_serializer.end()])
        closing = held + self._begin() + self._close()
        usage = estimated_output_of(self._texts) if self._usage is None else self._usage
        response = response_document(self._context, self._model, self._output, self._finish.reason, usage)
        kind = "response.incomplete" if response["status"] == "incomplete" else "response.completed"
        return closing + self._event(kind, response=response)

    def error(self, message: str, code: str) -> bytes:
        """Return an `error` or `response.failed` event, after which the API sends nothing."""
        if code not in FAILURES:
            return self._event("error", code=code, message=message, param=None)
        begun = self._begin()
        response = response_document(self._context, self._model, self._output, None, None)
        failed = {**response, "status": "failed", "error": {"code": code, "message": message}}
        return begun + self._event("response.failed", response=failed)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        document = {"type": kind, "sequence_number": self._sequence, **fields}
        return encode_event(msgspec.json.encode(document), kind.encode())

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        response = response_document(self._context, self._model, [], None, None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _place(self) -> dict[str, Any]:
        prefix = {"message": "msg", "thinking": "rs"}.get(self._open, "fc")
        return {"output_index": self._index, "item_id": f"{prefix}_{self._context.request_id}_{self._index}"}

    def _open_item(self, kind: str, item: dict[str, Any]) -> bytes:
        """Open an item of this kind; `_next` has closed the one before and set the index."""
        self._open, self._text = kind, []
        return self._event("response.output_item.added", output_index=self._index, item=item)

    def _next(self) -> bytes:
        """Close the open item and advance the index to the next."""
        closing = self._begin() + self._close()
        self._index += 1
        return closing

    def _write_text(self, chunk: TextDelta | RefusalDelta) -> bytes:
        kind = "output_text" if isinstance(chunk, TextDelta) else "refusal"
        opening = b"" if self._open == "message" else self._open_message()
        if self._part_kind != kind:
            opening += self._close_part() + self._open_part(kind)
        self._text.append(chunk.text)
        self._texts.append(chunk.text)
        more: dict[str, Any] = {}
        if isinstance(chunk, TextDelta):
            logprobs = write_logprobs(chunk.logprobs) if chunk.logprobs is not None else []
            self._logprobs += logprobs
            more["logprobs"] = without_bytes(logprobs)
        return opening + self._event(
            f"response.{kind}.delta", **self._place(), content_index=self._part, delta=chunk.text, **more
        )

    def _open_message(self) -> bytes:
        closing = self._next()
        self._part, self._content = -1, []
        item = item_of([Text(text="")], self._context.request_id, self._index) | {
            "content": [],
            "status": "in_progress",
        }
        return closing + self._open_item("message", item)

    def _open_part(self, kind: str) -> bytes:
        self._part, self._part_kind, self._text, self._logprobs = self._part + 1, kind, [], []
        part = content_of(Refusal(text="") if kind == "refusal" else Text(text=""))
        return self._event("response.content_part.added", **self._place(), content_index=self._part, part=part)

    def _close_part(self) -> bytes:
        kind, self._part_kind = self._part_kind, ""
        if not kind:
            return b""
        text = "".join(self._text)
        place: dict[str, Any] = {**self._place(), "content_index": self._part}
        if kind == "refusal":
            part = content_of(Refusal(text=text))
            whole: dict[str, Any] = {"refusal": text}
        else:
            part = content_of(Text(text=text)) | {"logprobs": self._logprobs}
            whole = {"text": text, "logprobs": without_bytes(self._logprobs)}
        self._content.append(part)
        return self._event(f"response.{kind}.done", **place, **whole) + self._event(
            "response.content_part.done", **place, part=part
        )

    def _write_thinking(self, chunk: ThinkingDelta) -> bytes:
        written = b""
        if self._open != "thinking":
            written = self._next()
            written += self._open_item("thinking", item_of([Thinking()], self._context.request_id, self._index))
            self._seal = ThinkingDelta()
        if chunk.text:
            if not self._text:
                part = {"type": "summary_text", "text": ""}
                written += self._summary("part.added", part=part)
            self._text.append(chunk.text)
            self._texts.append(chunk.text)
            written += self._summary("text.delta", delta=chunk.text)
        if chunk.signature is None and chunk.redacted is None:
            return written
        self._seal = chunk
        return written + self._close()

    def _summary(self, what: str, **fields: Any) -> bytes:
        return self._event(f"response.reasoning_summary_{what}", **self._place(), summary_index=0, **fields)

    def _write_call(self, chunk: ToolStart | ToolDelta) -> bytes:
        if isinstance(chunk, ToolStart):
            closing = self._next()
            self._call = ToolCall(id=chunk.id, name=chunk.name, arguments="")
            self._origin = self._origins.get(chunk.name)
            item = call_item(self._call, self._context.request_id, self._index, "in_progress")
            item = restored_call(item, self._call, self._origin)
            return closing + self._open_item(f"call {chunk.call}", item)
        if self._open != f"call {chunk.call}":
            return b""
        self._text.append(chunk.arguments)
        self._texts.append(chunk.arguments)
        if self._origin is not None and self._origin.is_custom:
            return b""  # the input can be read only once its JSON is complete
        return self._event("response.function_call_arguments.delta", **self._place(), delta=chunk.arguments)

    def _close_call(self, arguments: str) -> tuple[bytes, dict[str, Any]]:
        """Return the last events of a call before its item is done, and the item."""
        call = ToolCall(id=self._call.id, name=self._call.name, arguments=arguments)
        item = restored_call(call_item(call, self._context.request_id, self._index), call, self._origin)
        if item["type"] == "custom_tool_call":
            kind, given = "response.custom_tool_call_input", item["input"]
            delta = self._event(f"{kind}.delta", **self._place(), delta=given)
            return delta + self._event(f"{kind}.done", **self._place(), input=given), item
        done = {"arguments": arguments, "name": item["name"]}
        return self._event("response.function_call_arguments.done", **self._place(), **done), item

    def _close(self) -> bytes:
        """Close the open item, if there is one, and add it to the output."""
        if not self._open:
            return b""
        text = "".join(self._text)
        if self._open == "message":
            written = self._close_part()
            item = item_of([Text(text="")], self._context.request_id, self._index) | {"content": self._content}
        elif self._open == "thinking":
            written = b""
            if text:
                written = self._summary("text.done", text=text)
                written += self._summary("part.done", part={"type": "summary_text", "text": text})
            thought = Thinking(text=text, signature=self._seal.signature, redacted=self._seal.redacted)
            item = item_of([thought], self._context.request_id, self._index)
        else:
            written, item = self._close_call(text)
        self._open = ""
        self._output.append(item)
        return written + self._event("response.output_item.done", output_index=self._index, item=item)
