"""Hypothesis strategies for requests, and functions that write such a request as the body of each vendor's API.

`expected` builds the conversation that every API must read from it. The writers below are independent of the gateway:
written by hand from the vendors' documentation, so that they do not repeat a reader's mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from llm_gateway.domain.conversation import (
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

Document = dict[str, Any]

ODD_TEXTS = ("", " ", "\n\t", "\x1f", "\0", "\x7f", "\u200b", "\u2028", "😀", "e\u0301", "\U0010ffff", "json", '"\\')
texts = st.sampled_from(ODD_TEXTS) | st.text(st.characters(codec="utf-8"), max_size=8)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
values = (
    st.sampled_from([0, -1, 2**53 + 1, 10**25, 1.5, 1e300, True, None, [], {}, [1, "x"], {"a": {"b": None}}]) | texts
)
inputs = st.dictionaries(names, values, max_size=2)
schemas = st.sampled_from(
    [
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"größe 😀": {"type": ["number", "null"]}}, "required": ["größe 😀"]},
        {"type": "object", "$defs": {"a": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/a"}}},
    ]
)
pictures = st.sampled_from([Image(media_type="image/png", data="aGVsbG8="), Image(url="https://example.com/ä.png?a=1")])
papers = st.just(File(name="a b.pdf", media_type="application/pdf", data="JVBERi0="))


class Question(NamedTuple):
    """A request, independent of any API. `settings` are fields of `Conversation`."""

    system: str | None
    turns: list[Turn]
    settings: dict[str, Any]


@st.composite
def turns_of(draw: st.DrawFn, tools: list[str], *, text_only: bool) -> list[Turn]:
    """Draw turns of a user, a model and tools; the last one is the user's or holds tool results."""
    turns: list[Turn] = []
    for number in range(draw(st.integers(1, 3))):
        parts: list[Part] = [Text(text=text) for text in draw(st.lists(texts, min_size=1, max_size=2))]
        if not text_only and draw(st.booleans()):
            parts.append(draw(pictures | papers))
        turns.append(Turn(role="user", parts=parts))
        has_calls = draw(st.booleans())
        if tools and has_calls:
            called: list[Part] = [Text(text=draw(words))] if draw(st.booleans()) else []
            calls = [
                ToolCall(id=f"call_{number}_{n}", name=name, arguments=msgspec.json.encode(draw(inputs)).decode())
                for n, name in enumerate(tools)
            ]
            turns.append(Turn(role="assistant", parts=[*called, *calls]))
            turns.append(Turn(role="tool", parts=[_result(call, draw(texts)) for call in calls]))
        if draw(st.booleans()):
            turns.append(Turn(role="assistant", parts=[Text(text=draw(texts))]))
    if turns[-1].role == "assistant":
        turns.append(Turn(role="user", parts=[Text(text=draw(texts))]))
    return turns


def _result(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call_id=call.id, content=[Text(text=text)])


SHARED: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.sampled_from([1, 7999, 8000, 10**6]),
    "temperature": st.sampled_from([0.0, 1e-9, 0.7, 1.0]),
    "top_p": st.sampled_from([0.0, 0.5, 1.0]),
    "user": words,
    "service_tier": st.sampled_from(["auto", "default"]),
    "reasoning": st.sampled_from([Reasoning(effort=word) for word in ("none", "minimal", "low", "high", "max")]),
}
"""Settings that the APIs of OpenAI (both) and Anthropic have."""
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([1.0000001, 2.0]),
    "stop": st.sampled_from([["END"], [" "], ["\n", "###"], ["1", "2", "3", "4"], ["1", "2", "3", "4", "5"]]),
    "top_k": st.sampled_from([0, 1, 40]),
    "seed": st.sampled_from([0, -(2**63), 2**63 - 1]),
    "presence_penalty": st.sampled_from([-2.0, 0.0, 2.0]),
    "frequency_penalty": st.sampled_from([-2.0, 0.0, 2.0]),
    "n": st.sampled_from([2, 128]),
    "logit_bias": st.just({"50256": -100}),
    "metadata": st.just({"a": "ä"}),
    "verbosity": st.sampled_from(["low", "high"]),
    "format": st.just(ResponseFormat()) | st.builds(ResponseFormat, name=st.just("answer"), schema=schemas),
}
"""Settings that some APIs lack; a request has at most one of them, so that most requests fit most APIs."""


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Draw a request that chat completions can express, and at least one other protocol."""
    tools: list[str] = draw(st.lists(names, max_size=2, unique=True)) if draw(st.booleans()) else []
    settings = {name: draw(values) for name, values in SHARED.items() if draw(st.booleans())}
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(OTHERS)))
        settings[name] = draw(OTHERS[name])
    if tools:
        settings["tools"] = [
            Tool(name=name, description=draw(st.none() | words), parameters=draw(schemas)) for name in tools
        ]
        settings["tool_choice"] = draw(
            st.none()
            | st.sampled_from([ToolChoice(mode="auto"), ToolChoice(mode="none"), ToolChoice(mode="required")])
            | st.just(ToolChoice(mode="required", name=tools[0], parallel=False))
            | st.just(ToolChoice(parallel=True))
        )
    turns = draw(turns_of(tools, text_only=draw(st.booleans())))
    return Question(draw(st.none() | texts), turns, {k: v for k, v in settings.items() if v is not None})


@st.composite
def short_questions(draw: st.DrawFn) -> Question:
    """Draw a request that /generate can express: text, max_tokens, temperature, and JSON mode or not."""
    settings: dict[str, Any] = {
        "max_tokens": draw(st.sampled_from([1, 1000, 8000])),
        "temperature": draw(st.sampled_from([0.0, 0.7, 1.0, 1.0000001, 2.0])),
    }
    if draw(st.booleans()):
        settings["format"] = ResponseFormat()
    return Question(draw(st.just("") | texts), draw(turns_of([], text_only=draw(st.booleans()))), settings)


def expected(question: Question) -> Conversation:
    """Build the conversation; an empty system text adds no turn."""
    system = [Turn(role="system", parts=[Text(text=question.system)])] if question.system else []
    return Conversation(turns=[*system, *question.turns], **question.settings)


# OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat/create


def chat_document(question: Question) -> Document:
    """Write the body of POST /chat/completions."""
    messages = [] if question.system is None else [{"role": "system", "content": question.system}]
    for turn in question.turns:
        messages += _chat_messages(turn)
    document: Document = {"model": "m", "messages": messages}
    for name, value in question.settings.items():
        document |= _chat_setting(name, value)
    return document


def _chat_messages(turn: Turn) -> list[Document]:
    if turn.role == "tool":
        return [
            {"role": "tool", "tool_call_id": part.call_id, "content": _only_text(part.content)}
            for part in turn.parts
            if isinstance(part, ToolResult)
        ]
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in turn.parts
        if isinstance(part, ToolCall)
    ]
    content = [part for part in turn.parts if not isinstance(part, ToolCall)]
    message: Document = {"role": turn.role, "content": _content(content, _chat_part) if content else None}
    return [message | ({"tool_calls": calls} if calls else {})]


def _chat_part(part: Part) -> Document:
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": _url(part)}}
    if isinstance(part, File):
        return {"type": "file", "file": {"filename": part.name, "file_data": _url(part)}}
    return {"type": "text", "text": _text(part)}


def _chat_setting(name: str, value: Any) -> Document:
    if isinstance(value, ResponseFormat):
        wanted = {"name": value.name, "schema": value.schema}
        kind = {"type": "json_schema", "json_schema": wanted} if value.schema is not None else {"type": "json_object"}
        return {"response_format": kind}
    if isinstance(value, ToolChoice):
        named = {"type": "function", "function": {"name": value.name}}
        return _choice(value, named, implied=value.parallel is True)
    if name == "tools":
        return {"tools": [{"type": "function", "function": _function(tool)} for tool in value]}
    return {"reasoning_effort": value.effort} if isinstance(value, Reasoning) else {name: value}


# Anthropic's Messages: https://platform.claude.com/docs/en/api/messages/create


def messages_document(question: Question) -> Document:
    """Write the body of POST /v1/messages; tool results and the user's next text are one message."""
    messages: list[Document] = []
    before = ""
    for turn in question.turns:
        content = _content(turn.parts, _block)
        before, after = turn.role, before
        if turn.role == "user" and after == "tool":
            messages[-1]["content"] += [_block(part) for part in turn.parts]
        else:
            messages.append({"role": "assistant" if turn.role == "assistant" else "user", "content": content})
    document: Document = {"model": "m", "messages": messages}
    if question.system is not None:
        document["system"] = question.system
    config: Document = {}
    for name, value in question.settings.items():
        setting = _messages_setting(name, value)
        config |= setting.pop("output_config", {})
        document |= setting
    return document | ({"output_config": config} if config else {})


def _block(part: Part) -> Document:
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": msgspec.json.decode(part.arguments)}
    if isinstance(part, ToolResult):
        return {"type": "tool_result", "tool_use_id": part.call_id, "content": _only_text(part.content)}
    if isinstance(part, Image | File):
        source: Document = {"type": "base64", "media_type": part.media_type, "data": part.data}
        if part.url is not None:
            source = {"type": "url", "url": part.url}
        if isinstance(part, File):
            return {"type": "document", "title": part.name, "source": source}
        return {"type": "image", "source": source}
    return {"type": "text", "text": _text(part)}


def _messages_setting(name: str, value: Any) -> Document:
    if name == "tools":
        return {
            "tools": [
                _without_none({"name": one.name, "description": one.description, "input_schema": one.parameters})
                for one in value
            ]
        }
    if isinstance(value, ToolChoice):
        kind = {"auto": "auto", "none": "none", "required": "any" if value.name is None else "tool"}[value.mode]
        serial = None if value.parallel is None else not value.parallel
        return {"tool_choice": _without_none({"type": kind, "name": value.name, "disable_parallel_tool_use": serial})}
    if isinstance(value, Reasoning):
        is_off = value.effort == "none"
        return {"thinking": {"type": "disabled"}} if is_off else {"output_config": {"effort": value.effort}}
    if isinstance(value, ResponseFormat):
        return {"output_config": {"format": {"type": "json_schema", "schema": value.schema}}}
    return {"metadata": {"user_id": value}} if name == "user" else {MESSAGES_NAMES.get(name, name): value}


MESSAGES_NAMES = {"stop": "stop_sequences"}


# OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses/create


def responses_document(question: Question) -> Document:
    """Write the body of POST /responses."""
    document: Document = {"model": "m", "input": [item for turn in question.turns for item in _items(turn)]}
    if question.system is not None:
        document["instructions"] = question.system
    for name, value in question.settings.items():
        document |= _responses_setting(name, value)
    return document


def _items(turn: Turn) -> list[Document]:
    if turn.role == "tool":
        return [
            {"type": "function_call_output", "call_id": part.call_id, "output": _only_text(part.content)}
            for part in turn.parts
            if isinstance(part, ToolResult)
        ]
    parts = [part for part in turn.parts if not isinstance(part, ToolCall)]
    kind = "output_text" if turn.role == "assistant" else "input_text"
    items: list[Document] = []
    if parts:
        content = _content(parts, lambda part: _input(part, kind))
        items.append({"type": "message", "role": turn.role, "content": content})
    return items + [
        {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
        for part in turn.parts
        if isinstance(part, ToolCall)
    ]


def _input(part: Part, kind: str) -> Document:
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": _url(part)}
    if isinstance(part, File):
        return {"type": "input_file", "filename": part.name, "file_data": _url(part)}
    return {"type": kind, "text": _text(part)}


def _responses_setting(name: str, value: Any) -> Document:
    if name == "tools":
        return {"tools": [{"type": "function", **_function(tool)} for tool in value]}
    if isinstance(value, ToolChoice):
        return _choice(value, {"type": "function", "name": value.name}, implied=value.parallel is True)
    if isinstance(value, Reasoning):
        return {"reasoning": {"effort": value.effort}}
    if isinstance(value, ResponseFormat):
        kind: Document = {"type": "json_object"}
        if value.schema is not None:
            kind = {"type": "json_schema", "name": value.name, "schema": value.schema}
        return {"text": {"format": kind}}
    if name == "verbosity":
        return {"text": {"verbosity": value}}
    return {{"max_tokens": "max_output_tokens"}.get(name, name): value}


# Shared by all of them.


def _content(parts: Sequence[Part], write: Callable[[Part], Document]) -> str | list[Document]:
    """Write a single text as a string, as most clients do, anything else as a list of parts."""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [write(part) for part in parts]


def _text(part: Part) -> str:
    assert isinstance(part, Text)
    return part.text


def _only_text(content: list[Text | Image | File]) -> str:
    [part] = content
    return _text(part)


def _url(part: Image | File) -> str:
    return part.url or f"data:{part.media_type};base64,{part.data}"


def _function(tool: Tool) -> Document:
    return _without_none({"name": tool.name, "description": tool.description, "parameters": tool.parameters})


def _choice(choice: ToolChoice, named: Document, *, implied: bool) -> Document:
    """Write the tool choice; `implied`: `tool_choice` is the default and left out."""
    document: Document = {} if implied else {"tool_choice": choice.mode if choice.name is None else named}
    return document | ({} if choice.parallel is None else {"parallel_tool_calls": choice.parallel})


def _without_none(document: Document) -> Document:
    return {name: value for name, value in document.items() if value is not None}
