"""Hypothesis strategies for canonical conversations and completions that every protocol can express."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from llm_gateway.domain.conversation import (
    Choice,
    Completion,
    Conversation,
    Image,
    Part,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from llm_gateway.domain.usage import Usage

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(str.strip)
names = st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True)
arguments = st.dictionaries(names, st.one_of(st.integers(-9, 9), texts, st.booleans()), max_size=3).map(json.dumps)
pictures = st.builds(Image, media_type=st.just("image/png"), data=st.just("aGVsbG8="))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Draw a conversation: system text, turns of a user and a model, tool calls with results, settings."""
    turns: list[Turn] = []
    if draw(st.booleans()):
        turns.append(Turn(role="system", parts=[Text(text=draw(texts))]))
    tools: list[str] = draw(st.lists(names, max_size=2, unique=True))
    for number in range(draw(st.integers(1, 3))):
        said: list[Part] = [Text(text=draw(texts))]
        if draw(st.booleans()):
            said.append(draw(pictures))
        turns.append(Turn(role="user", parts=said))
        calls: list[Part] = [
            ToolCall(id=f"call_{number}_{index}", name=name, arguments=draw(arguments))
            for index, name in enumerate(tools)
        ]
        if draw(st.booleans()) and calls:
            turns.append(Turn(role="assistant", parts=calls))
            results: list[Part] = [
                ToolResult(call_id=call.id, content=[Text(text=draw(texts))])
                for call in calls
                if isinstance(call, ToolCall)
            ]
            turns.append(Turn(role="tool", parts=results))
        if draw(st.booleans()) or turns[-1].role == "tool":
            turns.append(Turn(role="assistant", parts=[Text(text=draw(texts))]))
    if turns[-1].role == "assistant":
        turns.append(Turn(role="user", parts=[Text(text=draw(texts))]))
    choice = draw(st.sampled_from(["auto", "none", "required"])) if draw(st.booleans()) and tools else None
    return Conversation(
        turns=turns,
        tools=[Tool(name=name, description=draw(texts), parameters=SCHEMA) for name in tools],
        tool_choice=None if choice is None else ToolChoice(mode=choice),  # type: ignore[arg-type]
        max_tokens=draw(st.integers(1, 8000)),
        temperature=draw(st.none() | st.integers(0, 10).map(lambda tenths: tenths / 10)),
        top_p=draw(st.none() | st.just(0.5)),
        stop=draw(st.lists(st.sampled_from(["END", "###"]), unique=True, max_size=2)),
    )


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    """Draw a completion of text, tool calls, or both."""
    parts: list[Part] = [Text(text=draw(texts))] if draw(st.booleans()) else []
    calls = draw(st.lists(names, min_size=0 if parts else 1, max_size=3))
    parts += [ToolCall(id=f"call_{n}", name=name, arguments=draw(arguments)) for n, name in enumerate(calls)]
    reason = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    asked = draw(st.integers(1, 1000))
    usage = Usage(
        input_tokens=asked,
        output_tokens=draw(st.integers(1, 1000)),
        cache_read_tokens=draw(st.integers(0, asked)),
    )
    return Completion(
        choices=[Choice(parts=parts, finish_reason=reason)],  # type: ignore[arg-type]
        usage=usage,
        model="model-1",
    )
