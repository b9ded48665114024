"""Carry signed and encrypted reasoning through `reasoning_details`, a field of messages that clients return unchanged.

The field is OpenRouter's, https://openrouter.ai/docs/guides/best-practices/reasoning-tokens#preserving-reasoning; its
clients and OpenAI's SDKs, which return an answer's message with all its fields, send it back. A message has a list:

    reasoning.text        `text` and `signature`: what Anthropic signed
    reasoning.encrypted   `data`: encrypted reasoning of Anthropic or of the Responses API, or Gemini's signature of the
                          tool call `id`
    reasoning.summary     `summary`: the readable part of the encrypted reasoning that follows

`format` names the vendor's protocol, `index` numbers the entries of a message. In streams of other servers, several
entries have one index; their texts are joined here until the signature comes. Their text is that of `reasoning`, too:

    {"reasoning": "I look", "reasoning_details": [{"type": "reasoning.text", "text": "I look", "signature": ""}]}
    {"reasoning": null,     "reasoning_details": [{"type": "reasoning.text", "signature": "Et8B…"}]}

Recorded answers of OpenRouter and Vercel's AI Gateway: https://github.com/charmbracelet/fantasy, `providertests`
(2026-11-27).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llm_gateway.domain.conversation import Part, Text, Thinking, ThinkingDelta, ToolCall
from llm_gateway.protocols.contract import JsonObject
from llm_gateway.protocols.encrypted_reasoning import (
    OPENAI_PREFIX,
    format_of,
    is_from_responses,
    is_marked,
    mark_content,
    unmark_content,
)
from llm_gateway.protocols.openai_chat.model_capabilities import details_format
from llm_gateway.protocols.part_attributes import is_verifiable

ANTHROPIC, GEMINI, RESPONSES = "anthropic-claude-v1", "google-gemini-v1", "openai-responses-v1"
"""Values of `format`. Other vendors' of the Responses API end in the same words, such as `xai-responses-v1`."""
RESPONSES_END, XAI = "-responses-v1", "xai-responses-v1"


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
        vendor = format_of(thought.redacted) or RESPONSES
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


def returned_details(parts: Sequence[Part], model: str) -> list[JsonObject]:
    """Return the `reasoning_details` of an earlier answer that the model's vendor can verify, to send them back."""
    reads = details_format(model)
    return details_of([part for part in parts if _is_of(part, reads)]) if reads is not None else []


def is_returnable(part: Part, model: str) -> bool:
    """Return whether `returned_details` has an entry of the part."""
    return _is_of(part, details_format(model))


def _is_of(part: Part, reads: str | None) -> bool:
    if isinstance(part, ToolCall):
        return reads == GEMINI and part.signature is not None
    if isinstance(part, Thinking) and is_from_responses(part):
        redacted = part.redacted or ""
        form = format_of(redacted) or (RESPONSES if redacted.startswith(OPENAI_PREFIX) else None)
        return reads == form if XAI in (reads, form) else reads == RESPONSES and form is not None
    return reads == ANTHROPIC and is_verifiable(part)


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
        open_texts += _texts(entry)
        seal = _seal(entry, signatures)
        if seal is not None:
            if seal.signature is not None or is_from_responses(seal):
                seal.text = "".join(open_texts)
            thoughts.append(seal)
            open_texts = []
    if text := "".join(open_texts):
        thoughts.append(Thinking(text=text))
    return thoughts, signatures


def _seal(entry: JsonObject, signatures: dict[str, str]) -> Thinking | None:
    """Return the signature or the encrypted reasoning in an entry, without its text; None if it has neither.

    Gemini's signature of a tool call is added to `signatures`. Encrypted reasoning of an unknown vendor is left out,
    since no other could verify it.
    """
    vendor, signature, data = str(entry.get("format")), entry.get("signature"), entry.get("data")
    if vendor == GEMINI:
        if isinstance(data, str) and data and isinstance(call_id := entry.get("id"), str):
            signatures[call_id] = data
        return None
    if isinstance(signature, str) and signature and entry.get("type") == "reasoning.text":
        return Thinking(signature=signature)
    if not isinstance(data, str) or not data:
        return None
    if vendor.endswith(RESPONSES_END) or is_marked(data):
        has_own_format = vendor.endswith(RESPONSES_END) and vendor != RESPONSES
        return Thinking(redacted=mark_content(data, vendor if has_own_format else None))
    return Thinking(redacted=data) if vendor == ANTHROPIC else None


def with_unsigned(thoughts: list[Thinking], whole: str) -> list[Thinking]:
    """Return the thoughts of `reasoning_details` with those that no vendor signed, which only `whole` has.

    `whole` is the reasoning in a message's other fields. It is ignored if it does not hold the thoughts in their order.
    """
    found: list[Thinking] = []
    done = 0
    for thought in thoughts:
        start = whole.find(thought.text, done)
        if start < 0:
            return thoughts
        if start > done:
            found.append(Thinking(text=whole[done:start]))
        found.append(thought)
        done = start + len(thought.text)
    return [*found, Thinking(text=whole[done:])] if done < len(whole) else found


class ReasoningReader:
    """A reader of the `reasoning_details` in one stream.

    `signatures` holds Gemini's of tool calls so far, by the ids of the calls. `thinking` is the set of choices with a
    thought that no signature has ended; it is kept up to date.
    """

    __slots__ = ("_thinking", "signatures")

    def __init__(self, thinking: set[int]) -> None:
        self.signatures: dict[str, str] = {}
        self._thinking = thinking

    def take(self, text: str, details: Any, choice: int) -> list[ThinkingDelta]:
        """Return the reasoning in a delta: `text`, that of its other fields, and its `reasoning_details`.

        The texts of the details say where a thought ends, so they replace `text` if they repeat it. A signature may
        come with the whole text of the thought that it ends, as this gateway writes it (`stream_writer.py`).
        """
        entries = [entry for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
        texts = ["".join(_texts(entry)) for entry in entries]
        seals = [_seal(entry, self.signatures) for entry in entries]
        has_own_text = bool(text) and text != "".join(texts)
        if has_own_text or (not text and choice in self._thinking and any(seals)):
            texts = [""] * len(entries)
        deltas = [ThinkingDelta(text=text, choice=choice)] if has_own_text else []
        for seal, piece in zip(seals, texts, strict=True):
            if seal is not None:
                deltas.append(
                    ThinkingDelta(text=piece, signature=seal.signature, redacted=seal.redacted, choice=choice)
                )
            elif piece:
                deltas.append(ThinkingDelta(text=piece, choice=choice))
        if deltas and deltas[-1].signature is None and deltas[-1].redacted is None:
            self._thinking.add(choice)
        elif deltas:
            self._thinking.discard(choice)
        return deltas


def _texts(entry: JsonObject) -> Iterable[str]:
    return [text for key in ("text", "summary") if isinstance(text := entry.get(key), str)]


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
