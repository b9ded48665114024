"""Write a client's chat completions stream: turn canonical chunks into server-sent events.

Every choice goes through these states; the labels are chunk: event written.

               first delta: delta with role "assistant"             ChoiceEnd: delta {} with finish_reason
    not begun ─────────────────────────────────────────▶ begun ─────────────────────────────────────────────▶ finished
                                                         ▲   │
                                                         └───┘ text, refusal, reasoning, tool call: delta
                                                               signature: delta with `reasoning_details`

`end` then writes the usage event, if the client requested it, and `[DONE]`; `error` writes an error event and no
`[DONE]`. `ReplyStart` and `UsageUpdate` write nothing: their values go into later events. Chunks of different choices
may mix.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import (
    BillingUpdate,
    ChoiceEnd,
    Chunk,
    RefusalDelta,
    ReplyStart,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageUpdate,
    VendorPartDelta,
)
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import EventStream, ReplyContext
from llm_gateway.protocols.openai_chat.reasoning_details import detail_of_call, details_of_thought
from llm_gateway.protocols.openai_chat.stream_reader import DONE
from llm_gateway.protocols.openai_chat.tools import is_legacy
from llm_gateway.protocols.openai_chat.usage import write_usage
from llm_gateway.sse import encode_event


class StreamWriter(EventStream):
    """A `contract.StreamWriter` of chat completion chunks.

    If the client requested usage (`stream_options.include_usage`), it comes last, in an event without choices.
    """

    def __init__(self, context: ReplyContext) -> None:
        options = context.document.get("stream_options")
        self._includes_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._common = {
            "id": f"chatcmpl-{context.request_id}",
            "object": "chat.completion.chunk",
            "created": context.created_s,
            "model": context.model,
        }
        self._is_legacy = is_legacy(context.document)
        self._begun: set[int] = set()
        self._thoughts: dict[int, list[str]] = {}  # choice -> texts of the thought that no signature has ended
        self._details: dict[int, int] = {}  # choice -> number of `reasoning_details` so far
        self._usage: Usage | None = None

    def write(self, chunk: Chunk) -> bytes:
        """Encode a chunk; see `contract.StreamWriter.write`."""
        if isinstance(chunk, TextDelta):
            return self._delta(chunk.choice, {"content": chunk.text}, logprobs=chunk.logprobs)
        if isinstance(chunk, UsageUpdate):
            self._usage = chunk.usage
            return b""
        if isinstance(chunk, ReplyStart):
            if chunk.model is not None:
                self._common["model"] = chunk.model
            return b""
        if isinstance(chunk, ChoiceEnd):
            is_call = self._is_legacy and chunk.reason == "tool_calls"
            return self._delta(chunk.choice, {}, finish="function_call" if is_call else chunk.reason)
        if isinstance(chunk, RefusalDelta):
            return self._delta(chunk.choice, {"refusal": chunk.text})
        if isinstance(chunk, ThinkingDelta):
            return self._think(chunk)
        if isinstance(chunk, VendorPartDelta | BillingUpdate):
            return b""
        return self._write_call(chunk)

    def _write_call(self, chunk: ToolStart | ToolDelta) -> bytes:
        call = _call(chunk)
        if self._is_legacy:  # there is room for one call only
            return self._delta(chunk.choice, {"function_call": call["function"]}) if chunk.call == 0 else b""
        delta: dict[str, Any] = {"tool_calls": [call]}
        if isinstance(chunk, ToolStart) and chunk.signature is not None:
            index = self._numbered(chunk.choice, 1)
            delta["reasoning_details"] = [detail_of_call(chunk.id, chunk.signature, index)]
        return self._delta(chunk.choice, delta)

    def _think(self, chunk: ThinkingDelta) -> bytes:
        """Write reasoning, and once its signature comes, the whole of it in one entry of `reasoning_details`."""
        delta: dict[str, Any] = {}
        if chunk.text:
            self._thoughts.setdefault(chunk.choice, []).append(chunk.text)
            delta["reasoning_content"] = chunk.text
        if chunk.signature is not None or chunk.redacted is not None:
            text = "".join(self._thoughts.pop(chunk.choice, ()))
            thought = Thinking(text=text, signature=chunk.signature, redacted=chunk.redacted)
            details = details_of_thought(thought, self._details.get(chunk.choice, 0))
            if details:
                self._numbered(chunk.choice, len(details))
                delta["reasoning_details"] = details
        return self._delta(chunk.choice, delta) if delta else b""

    def _numbered(self, choice: int, count: int) -> int:
        """Return the index of the next `count` entries of `reasoning_details`."""
        index = self._details.get(choice, 0)
        self._details[choice] = index + count
        return index

    def end(self) -> bytes:
        """Return the usage event, if the client requested it, and `[DONE]`."""
        usage = b""
        if self._includes_usage:
            counted = write_usage(self._usage or Usage())
            usage = encode_event(msgspec.json.encode({**self._common, "choices": [], "usage": counted}))
        return usage + encode_event(DONE)

    def error(self, message: str, code: str) -> bytes:
        """Return an error event in the format that OpenAI's SDKs raise as `APIError`."""
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        return encode_event(msgspec.json.encode({"error": error}))

    def _delta(
        self, choice: int, delta: dict[str, Any], *, finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        if choice not in self._begun:
            self._begun.add(choice)
            delta = {"role": "assistant", "content": "", **delta}  # SDKs take the role from the first delta
        return encode_event(
            msgspec.json.encode(
                {
                    **self._common,
                    "choices": [{"index": choice, "delta": delta, "finish_reason": finish, "logprobs": logprobs}],
                }
            )
        )


def _call(chunk: ToolStart | ToolDelta) -> dict[str, Any]:
    if isinstance(chunk, ToolDelta):
        return {"index": chunk.call, "function": {"arguments": chunk.arguments}}
    call: dict[str, Any] = {
        "index": chunk.call,
        "id": chunk.id,
        "type": "function",
        "function": {"name": chunk.name, "arguments": ""},
    }
    if chunk.signature is not None:
        call["extra_content"] = {"google": {"thought_signature": chunk.signature}}
    return call
