"""Hypothesis strategies for canonical replies with everything that Google's format can express."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import strategies as st

from llm_gateway.domain.conversation import Choice, Completion, FinishReason, Part, Text, Thinking, ToolCall
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import ReplyContext
from tests.protocols.conversation_strategies import arguments, names, texts

SHOWING: dict[str, Any] = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
CONTEXT = ReplyContext(request_id="request-1", model="model-1", created_s=7, document=SHOWING)
signatures = st.binary(min_size=1, max_size=6).map(lambda given: base64.b64encode(given).decode())
signed_texts = st.builds(Text, text=texts, signature=signatures)
thoughts = st.one_of(
    st.builds(Thinking, text=texts, signature=signatures),
    st.builds(Thinking, redacted=signatures),
)
calls = st.builds(ToolCall, id=signatures, name=names, arguments=arguments, signature=st.none() | signatures)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """Draw a choice of thoughts, texts and calls in any order, without adjacent parts that a reader would merge."""
    parts: list[Part] = []
    for _ in range(draw(st.integers(0, 4))):
        part = draw(
            st.one_of(st.builds(Text, text=texts), signed_texts, thoughts, st.builds(Thinking, text=texts), calls)
        )
        if parts and isinstance(part, Text) and isinstance(parts[-1], Text) and parts[-1].signature is None:
            continue
        if parts and isinstance(part, Thinking) and isinstance(parts[-1], Thinking):
            continue
        parts.append(part)
    has_call = any(isinstance(part, ToolCall) for part in parts)
    reasons: list[FinishReason] = ["tool_calls", "length"] if has_call else ["stop", "length", "content_filter"]
    return Choice(parts=parts, finish_reason=draw(st.sampled_from(reasons)))


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    """Draw a reply with one to three choices and all kinds of tokens that Google counts."""
    asked, answered = draw(st.integers(1, 1000)), draw(st.integers(1, 1000))
    thought = draw(st.integers(0, answered))
    return Completion(
        choices=draw(st.lists(choices(), min_size=1, max_size=3)),
        usage=Usage(
            input_tokens=asked,
            output_tokens=answered,
            cache_read_tokens=draw(st.integers(0, asked)),
            reasoning_tokens=thought,
            audio_input_tokens=draw(st.integers(0, asked)),
            audio_output_tokens=draw(st.integers(0, answered - thought)),
        ),
        id="request-1",
        model="model-1",
    )


def plain(completion: Completion) -> list[Any]:
    """Return the choices with decoded arguments of calls, so that the spelling of the JSON does not matter."""
    found: list[Any] = []
    for choice in completion.choices:
        parts = [
            (part.id, part.name, json.loads(part.arguments), part.signature) if isinstance(part, ToolCall) else part
            for part in choice.parts
        ]
        found.append((parts, choice.finish_reason))
    return found
