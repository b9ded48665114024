"""A client's stream of the Responses API: https://platform.openai.com/docs/api-reference/responses-streaming."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.assembly import Assembly
from llm_gateway.domain.conversation import (
    Begin,
    Chunk,
    Counted,
    Finish,
    ForeignDelta,
    Part,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegin,
    ToolCall,
    ToolDelta,
)
from llm_gateway.protocols.base import Head
from llm_gateway.protocols.in_order import InOrder
from llm_gateway.protocols.openai_responses.reply import call_item, content_of, grouped, item_of, response_document
from llm_gateway.sse import encode_event


class StreamWriter:
    """Writes events: items one after the other, the whole response again at the end. The first of the choices."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._model = head.model
        self._assembly = Assembly()
        self._sequence = -1
        self._has_begun = False
        self._open = ""  # what the open item is: message, thinking, or a call
        self._index = -1
        self._part = -1
        self._part_kind = ""
        self._text: list[str] = []
        self._said: list[Part] = []
        self._call = ToolCall(id="", name="", arguments="")
        self._in_order = InOrder()

    def write(self, chunk: Chunk) -> bytes:
        """As in `StreamWriter`."""
        if isinstance(chunk, ForeignDelta):
            return b""
        self._assembly.add(chunk)
        if not isinstance(chunk, Begin | Counted) and chunk.choice:
            return b""
        return b"".join([self._write(each) for each in self._in_order.feed(chunk)])

    def _write(self, chunk: Chunk) -> bytes:
        if isinstance(chunk, Begin):
            self._model = chunk.model or self._model
            return self._begin()
        if isinstance(chunk, Counted | Finish):
            return b""
        if isinstance(chunk, TextDelta):
            return self._say("output_text", chunk.text)
        if isinstance(chunk, RefusalDelta):
            return self._say("refusal", chunk.text)
        if isinstance(chunk, ThinkingDelta):
            return self._think(chunk.text)
        return b"" if isinstance(chunk, ForeignDelta) else self._tool(chunk)

    def end(self) -> bytes:
        """As in `StreamWriter`."""
        held = b"".join([self._write(each) for each in self._in_order.end()])
        completion = self._assembly.completion()
        choice = completion.choices[0] if completion.choices else None
        reason = choice.finish_reason if choice is not None else "stop"
        groups = grouped(choice.parts) if choice is not None else []
        output = [item_of(parts, self._head.request_id, index) for index, parts in enumerate(groups)]
        closing = held + self._begin() + self._close()
        response = response_document(self._head, self._model, output, reason, completion.usage)
        kind = "response.incomplete" if response["status"] == "incomplete" else "response.completed"
        return closing + self._event(kind, response=response)

    def error(self, message: str, code: str) -> bytes:
        """As in `StreamWriter`."""
        return self._event("error", code=code, message=message, param=None)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        document = {"type": kind, "sequence_number": self._sequence, **fields}
        return encode_event(msgspec.json.encode(document), kind.encode())

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        response = response_document(self._head, self._model, [], None, None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _place(self) -> dict[str, Any]:
        prefix = {"message": "msg", "thinking": "rs"}.get(self._open, "fc")
        return {"output_index": self._index, "item_id": f"{prefix}_{self._head.request_id}_{self._index}"}

    def _say(self, kind: str, text: str) -> bytes:
        opening = b"" if self._open == "message" else self._open_message()
        if self._part_kind != kind:
            opening += self._close_part() + self._open_part(kind)
        self._text.append(text)
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return opening + self._event(
            f"response.{kind}.delta", **self._place(), content_index=self._part, delta=text, **more
        )

    def _open_message(self) -> bytes:
        opening = self._begin() + self._close()
        self._open, self._index, self._part, self._said = "message", self._index + 1, -1, []
        item = item_of([Text(text="")], self._head.request_id, self._index) | {"content": [], "status": "in_progress"}
        return opening + self._event("response.output_item.added", output_index=self._index, item=item)

    def _open_part(self, kind: str) -> bytes:
        self._part, self._part_kind, self._text = self._part + 1, kind, []
        part = content_of(Refusal(text="") if kind == "refusal" else Text(text=""))
        return self._event("response.content_part.added", **self._place(), content_index=self._part, part=part)

    def _close_part(self) -> bytes:
        kind, self._part_kind = self._part_kind, ""
        if not kind:
            return b""
        text = "".join(self._text)
        said: Part = Refusal(text=text) if kind == "refusal" else Text(text=text)
        self._said.append(said)
        place: dict[str, Any] = {**self._place(), "content_index": self._part}
        whole: dict[str, Any] = {"refusal": text} if kind == "refusal" else {"text": text, "logprobs": []}
        return self._event(f"response.{kind}.done", **place, **whole) + self._event(
            "response.content_part.done", **place, part=content_of(said)
        )

    def _think(self, text: str) -> bytes:
        opening = b""
        if self._open != "thinking":
            opening = self._begin() + self._close()
            self._open, self._index, self._text = "thinking", self._index + 1, []
            item = item_of([Thinking()], self._head.request_id, self._index)
            opening += self._event("response.output_item.added", output_index=self._index, item=item)
            part = {"type": "summary_text", "text": ""}
            opening += self._event("response.reasoning_summary_part.added", **self._place(), summary_index=0, part=part)
        if not text:
            return opening
        self._text.append(text)
        return opening + self._event(
            "response.reasoning_summary_text.delta", **self._place(), summary_index=0, delta=text
        )

    def _tool(self, chunk: ToolBegin | ToolDelta) -> bytes:
        if isinstance(chunk, ToolBegin):
            opening = self._begin() + self._close()
            self._open, self._index, self._text = f"call {chunk.call}", self._index + 1, []
            self._call = ToolCall(id=chunk.id, name=chunk.name, arguments="")
            item = call_item(self._call, self._head.request_id, self._index, "in_progress")
            return opening + self._event("response.output_item.added", output_index=self._index, item=item)
        if self._open != f"call {chunk.call}":
            return b""
        self._text.append(chunk.arguments)
        return self._event("response.function_call_arguments.delta", **self._place(), delta=chunk.arguments)

    def _close(self) -> bytes:
        """End the open item."""
        kind, place, text = self._open, self._place(), "".join(self._text)
        if not kind:
            return b""
        written = b""
        if kind == "message":
            written = self._close_part()
            item = item_of(self._said or [Text(text="")], self._head.request_id, self._index)
        elif kind == "thinking":
            part = {"type": "summary_text", "text": text}
            written = self._event("response.reasoning_summary_text.done", **place, summary_index=0, text=text)
            written += self._event("response.reasoning_summary_part.done", **place, summary_index=0, part=part)
            item = item_of([Thinking(text=text)], self._head.request_id, self._index)
        else:
            call = ToolCall(id=self._call.id, name=self._call.name, arguments=text)
            name = self._call.name
            written = self._event("response.function_call_arguments.done", **place, arguments=text, name=name)
            item = call_item(call, self._head.request_id, self._index)
        self._open = ""
        return written + self._event("response.output_item.done", output_index=self._index, item=item)
