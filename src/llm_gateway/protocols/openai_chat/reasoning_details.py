"""Carry signed and encrypted reasoning through `reasoning_details`, a field of messages that clients return unchanged.

The field is OpenRouter's, https://openrouter.ai/docs/guides/best-practices/reasoning-tokens#preserving-reasoning; its
clients and OpenAI's SDKs, which return an answer's message with all its fields, send it back. A message has a list:

    reasoning.text        `text` and `signature`: what Anthropic signed
    reasoning.encrypted   `data`: encrypted reasoning of Anthropic or of the Responses API, or Gemini's signature of the
                          tool call `id`
    reasoning.summary     `summary`: the readable part of the encrypted reasoning that follows

`format` names the vendor's protocol, `index` numbers the entries of a message. In streams of other servers, several
entries have one index; their texts are joined here until the signature comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_gateway.domain.conversation import Part, Text, Thinking, ToolCall
from llm_gateway.protocols.contract import JsonObject
from llm_gateway.protocols.encrypted_reasoning import is_from_responses, is_marked, mark_content, unmark_content

ANTHROPIC, GEMINI, RESPONSES = "anthropic-claude-v1", "google-gemini-v1", "openai-responses-v1"
"""Values of `format`. Other vendors' of the Responses API end in the same words, such as `xai-responses-v1`."""
RESPONSES_END = "-responses-v1"


def details_of(parts: Sequence[Part]) -> list[JsonObject]:
    """Return the `reasoning_details` of an answer; none if no vendor signed or encrypted any of it."""
    if len(parts) == 1 and type(parts[0]) is Text:  # nearly always
        return []
    details: list[JsonObject] = []
    for part in parts:
        if isinstance(part, Thinking):
            details += details_of_thought(part, len(details))
        elif isinstance(part, ToolCall) and part.signature is not None:
            details.append(detail_of_call(part.id, part.signature, len(details)))
    return details


def details_of_thought(thought: Thinking, index: int) -> list[JsonObject]:
    """Return the entries of a thought, the first of which has this index; none without signature or encryption."""
    if is_from_responses(thought):
        summary = [{"type": "reasoning.summary", "summary": thought.text}] if thought.text else []
        entries = [*summary, {"type": "reasoning.encrypted", "data": unmark_content(thought.redacted or "")}]
        vendor = RESPONSES
    elif thought.redacted:
        entries, vendor = [{"type": "reasoning.encrypted", "data": thought.redacted}], ANTHROPIC
    elif thought.signature:
        entries = [{"type": "reasoning.text", "text": thought.text, "signature": thought.signature}]
        vendor = ANTHROPIC
    else:
        return []
    return [{**entry, "format": vendor, "index": index + number} for number, entry in enumerate(entries)]


def detail_of_call(call_id: str, signature: str, index: int) -> JsonObject:
    """Return the entry with Gemini's signature of a tool call."""
    return {"type": "reasoning.encrypted", "data": signature, "id": call_id, "format": GEMINI, "index": index}


def read_details(details: Any) -> tuple[list[Thinking], dict[str, str]]:
    """Return the reasoning in a returned `reasoning_details`, and Gemini's signatures by the ids of their tool calls.

    What no vendor signed is returned as one unsigned thought. Entries that are not understood are left out, since
    reasoning is no part of what the client asks.
    """
    thoughts: list[Thinking] = []
    signatures: dict[str, str] = {}
    open_texts: list[str] = []
    for entry in details if isinstance(details, list) else ():
        if not isinstance(entry, dict):
            continue
        open_texts += [text for key in ("text", "summary") if isinstance(text := entry.get(key), str)]
        signature, data = entry.get("signature"), entry.get("data")
        if entry.get("type") == "reasoning.text" and isinstance(signature, str) and signature:
            thoughts.append(Thinking(text="".join(open_texts), signature=signature))
            open_texts = []
        elif isinstance(data, str) and data:
            if entry.get("format") == GEMINI:
                if isinstance(call_id := entry.get("id"), str):
                    signatures[call_id] = data
            elif (thought := _encrypted(data, str(entry.get("format")), open_texts)) is not None:
                thoughts.append(thought)
                open_texts = []
    if text := "".join(open_texts):
        thoughts.append(Thinking(text=text))
    return thoughts, signatures


def _encrypted(data: str, vendor: str, summaries: list[str]) -> Thinking | None:
    """Return encrypted reasoning; None if its vendor is unknown, so that no other could verify it."""
    if vendor.endswith(RESPONSES_END) or is_marked(data):
        return Thinking(text="".join(summaries), redacted=mark_content(data))
    return Thinking(redacted=data) if vendor == ANTHROPIC else None


def without_signatures(document: JsonObject) -> bool:
    """Remove `reasoning_details`, and Gemini's signatures of tool calls, from a request, in place.

    Returns whether there were any.
    """
    found = False
    messages = document.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        found |= bool(message.pop("reasoning_details", None))
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            found |= isinstance(call, dict) and bool(call.pop("extra_content", None))
    return found
