"""The judge of the mock vendors: it takes what the vendors take, and refuses each kind of what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.agents.script import Step
from tests.agents.strict import complaint
from tests.agents.vendor import DIALECTS
from tests.rows import each_row

Json = dict[str, Any]
VERSION = {"anthropic-version": "2023-06-01"}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
PNG = {"mime": "image/png", "data": "iVBORw0KGgo="}
LONG = "n" * 65


def chat(*messages: Json, **more: Any) -> Json:
    return {"model": "gpt-4.1", "messages": [{"role": "user", "content": "Hi"}, *messages], **more}


def chat_call(call_id: str = "c1", **more: Any) -> Json:
    function = {"name": "read", "arguments": "{}"}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}], **more}


def chat_tool(**more: Any) -> Json:
    return {"type": "function", "function": {"name": "read", "parameters": SCHEMA, **more}}


CHAT_RESULT = {"role": "tool", "tool_call_id": "c1", "content": "text"}


def messages(*turns: Json, **more: Any) -> Json:
    first = {"role": "user", "content": "Hi"}
    return {"model": "claude-sonnet-4-5", "max_tokens": 9999, "messages": [first, *turns], **more}


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


TEXT = {"type": "text", "text": "Look"}
MARK = {"cache_control": {"type": "ephemeral"}}
TOOL_USE: Json = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "x"}}],
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": PNG["mime"], "data": PNG["data"]}}
RESULT: Json = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [TEXT, IMAGE]}
TOOL = {"name": "read", "input_schema": {**SCHEMA, "$schema": "https://json-schema.org/draft/2020-12/schema"}}


def gemini(*contents: Json, **more: Any) -> Json:
    return {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, *contents], **more}


CALL = {"role": "model", "parts": [{"functionCall": {"name": "read", "args": {}}}]}
RESPONSE: Json = {"functionResponse": {"name": "read", "response": {"output": "text"}}}
INLINE = {"inlineData": {"mimeType": PNG["mime"], "data": PNG["data"]}}


def declared(**function: Any) -> list[Json]:
    return [{"functionDeclarations": [{"name": "read", **function}]}]


def responses(*items: Json, **more: Any) -> Json:
    return {"model": "gpt-5.4", "store": False, "input": [{"role": "user", "content": "Hi"}, *items], **more}


TAKEN = [
    ("openai", chat(chat_call(), CHAT_RESULT, chat_call(), CHAT_RESULT, tools=[chat_tool()], stream=True)),
    ("openai", chat(user(TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}))),
    ("anthropic", messages(TOOL_USE, user(RESULT, TEXT), tools=[{**TOOL, "type": "custom"}, {**TOOL, "name": "b"}])),
    ("anthropic", messages(system=[{**TEXT, **MARK}], thinking={"type": "enabled", "budget_tokens": 1024})),
    ("gemini", gemini(CALL, {"role": "user", "parts": [RESPONSE]}, tools=declared(parametersJsonSchema=SCHEMA))),
    ("gemini", gemini({"role": "user", "parts": [INLINE]}, generationConfig={"thinkingConfig": {"thinkingBudget": 9}})),
    ("responses", responses(tools=[{"type": "function", "name": "read", "parameters": SCHEMA, "strict": False}])),
]


@each_row(("kind", "body"), TAKEN)
def test_a_valid_request_is_taken(kind: str, body: Json) -> None:
    assert complaint(kind, body, VERSION, "gemini-2.5-pro") is None


def test_a_beta_field_is_taken_with_its_header_only() -> None:
    body = messages(context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]})

    with_it = {**VERSION, "anthropic-beta": "a,context-management-2025-06-27"}
    assert complaint("anthropic", body, with_it) is None
    without = {**VERSION, "anthropic-beta": "a"}
    assert complaint("anthropic", body, without) == "context_management: Extra inputs are not permitted"


def test_sampling_is_taken_in_the_former_version_only() -> None:
    body = messages(temperature=0.5, top_k=3)

    assert complaint("anthropic", body, VERSION) is None
    later = {"anthropic-version": "2026-10-21"}
    assert complaint("anthropic", body, later) == "temperature: Extra inputs are not permitted"
    assert complaint("anthropic", messages()) == "anthropic-version: 'None' is not a valid version"


REFUSED = [
    # unknown fields, from the outside in
    ("openai", chat(future=1), "Unknown parameter: 'future'"),
    ("openai", chat({"role": "user", "content": "x", "future": 1}), "messages[1].future"),
    ("openai", chat(user({**TEXT, **MARK})), "messages[1].content[0].cache_control"),
    ("openai", chat(tools=[chat_tool(future=1)]), "tools[0].function.future"),
    ("anthropic", messages(future=1), "future"),
    ("anthropic", messages({**user(TEXT), "future": 1}), "messages[1].future"),
    ("anthropic", messages(user({**TEXT, "future": 1})), "messages[1].content[0].future"),
    ("anthropic", messages(tools=[{**TOOL, "future": 1}]), "tools[0].future"),
    ("anthropic", messages(TOOL_USE, user({**RESULT, "content": [{**TEXT, "future": 1}]})), "content[0].future"),
    ("gemini", gemini(future=1), "'future'"),
    ("gemini", gemini({"role": "user", "parts": [{"text": "x", "future": 1}]}), "contents.1.parts.0.future"),
    ("gemini", gemini(generationConfig={"future": 1}), "generationConfig.future"),
    ("gemini", gemini(tools=declared(future=1)), "functionDeclarations.0.future"),
    ("gemini", gemini(tools=declared(parameters={**SCHEMA, "$schema": "x"})), "parameters.$schema"),
    ("responses", responses(tools=[{"type": "function", "name": "read", "parameters": SCHEMA, "future": 1}]), "future"),
    # types and values
    ("openai", chat(max_tokens="9"), "max_tokens"),
    ("anthropic", messages(max_tokens=None), "max_tokens"),
    ("anthropic", {"model": "m", "messages": [user(TEXT)]}, "max_tokens"),
    ("gemini", gemini(generationConfig={"thinkingConfig": {"thinkingLevel": "odd"}}), "odd"),
    ("gemini", gemini(generationConfig={"maxOutputTokens": "many"}), "maxOutputTokens"),
    ("gemini", gemini(generationConfig={"audioTimestamp": True}), "audioTimestamp"),
    ("anthropic", messages(top_k=0.5), "top_k"),
    ("anthropic", messages(temperature=1, top_p=1), "cannot both"),
    # names of tools
    ("openai", chat(tools=[chat_tool(name="a.b")]), "a.b"),
    ("openai", chat(tools=[chat_tool(name=LONG)]), LONG),
    ("openai", chat(tools=[chat_tool(), chat_tool()]), "unique"),
    ("openai", chat(tools=[]), "'tools'"),
    ("openai", chat(tools=[chat_tool(parameters={"type": "object"})]), "missing properties"),
    ("anthropic", messages(tools=[{**TOOL, "name": "a.b"}]), "a.b"),
    ("anthropic", messages(tools=[TOOL, TOOL]), "unique"),
    ("gemini", gemini(tools=declared(name=LONG)), LONG),
    ("gemini", gemini(tools=declared(name="1a")), "1a"),
    ("gemini", gemini(tools=declared(parameters={"type": "OBJECT", "properties": {}})), "non-empty"),
    ("gemini", gemini(tools=declared(parameters=SCHEMA, parametersJsonSchema=SCHEMA)), "mutually exclusive"),
    ("gemini", gemini(tools=declared(), generationConfig={"responseMimeType": "application/json"}), "mime type"),
    # calls and results
    ("openai", chat(CHAT_RESULT), "must be a response"),
    ("openai", chat(chat_call(), {**CHAT_RESULT, "tool_call_id": "c2"}), "must be a response"),
    ("openai", chat(chat_call()), "must be followed"),
    ("openai", chat(chat_call(), {"role": "user", "content": "x"}, CHAT_RESULT), "must be followed"),
    ("openai", chat(chat_call("c" * 41), {**CHAT_RESULT, "tool_call_id": "c" * 41}), "too long"),
    ("openai", chat({"role": "assistant", "content": "x", "tool_calls": []}), "empty array"),
    ("openai", chat({"role": "assistant"}), "got null"),
    ("openai", {"model": "gpt-4.1", "messages": []}, "empty array"),
    ("anthropic", messages(user(RESULT)), "unexpected `tool_use_id`"),
    ("anthropic", messages(TOOL_USE), "without `tool_result`"),
    ("anthropic", messages(TOOL_USE, user(TEXT)), "without `tool_result`"),
    ("anthropic", messages(TOOL_USE, user(TEXT, RESULT)), "must come first"),
    ("anthropic", messages(TOOL_USE, user(RESULT, RESULT)), "single result"),
    ("anthropic", messages(TOOL_USE, user(RESULT), TOOL_USE, user(RESULT)), "ids must be unique"),
    ("anthropic", messages({**TOOL_USE, "content": [{**TOOL_USE["content"][0], "id": "a.b"}]}), "should match"),
    ("anthropic", {**messages(), "messages": [{"role": "assistant", "content": "x"}]}, "first message"),
    ("gemini", gemini({"role": "user", "parts": [RESPONSE]}), "immediately after a function call"),
    ("gemini", gemini(CALL, {"role": "user", "parts": [{"text": "x"}]}), "number of function response parts"),
    ("gemini", gemini(CALL, {"role": "user", "parts": [RESPONSE, RESPONSE]}), "number of function response parts"),
    ("gemini", {"contents": [CALL, {"role": "user", "parts": [RESPONSE]}]}, "immediately after a user turn"),
    ("gemini", gemini({"role": "model", "parts": [{"text": "x"}]}), "end with a user role"),
    ("gemini", gemini({"role": "assistant", "parts": [{"text": "x"}]}), "valid role"),
    ("responses", responses({"type": "function_call_output", "call_id": "c1", "output": "x"}), "No tool call found"),
    # contents
    ("anthropic", messages(user({"type": "text", "text": " "})), "non-empty"),
    ("anthropic", messages(user()), "non-empty content"),
    ("anthropic", messages(user(*[{**TEXT, **MARK}] * 5)), "maximum of 4"),
    ("anthropic", messages(TOOL_USE, user({**RESULT, "content": [{**TEXT, **MARK}] * 5})), "maximum of 4"),
    ("anthropic", messages(thinking={"type": "enabled", "budget_tokens": 1023}), "budget_tokens"),
    ("gemini", gemini({"role": "user", "parts": []}), "must not be empty"),
    ("gemini", gemini({"role": "user", "parts": [{"text": "x", **INLINE}]}), "exactly one"),
    ("gemini", gemini({"role": "user", "parts": [{}]}), "exactly one"),
    ("gemini", gemini(CALL, {"role": "user", "parts": [{"functionResponse": {
        **RESPONSE["functionResponse"], "parts": [INLINE]}}]}), "not supported for this model"),
    ("gemini", {"contents": []}, "not specified"),
]  # fmt: skip


@each_row(("kind", "body", "words"), REFUSED)
def test_an_invalid_request_is_refused(kind: str, body: Json, words: str) -> None:
    problem = complaint(kind, body, VERSION, "gemini-2.5-pro")

    assert problem is not None
    assert words in problem


@pytest.mark.parametrize("step", [Step("text"), Step(tool="read", arguments={"path": "x"})], ids=["text", "tool"])
@pytest.mark.parametrize(
    ("kind", "whole", "event"),
    [
        ("openai", ChatCompletion, ChatCompletionChunk),
        ("responses", Response, ResponseStreamEvent),
        ("anthropic", Message, RawMessageStreamEvent),
        ("gemini", GenerateContentResponse, GenerateContentResponse),
    ],
)
def test_the_replies_have_the_types_of_the_vendors_sdk(
    kind: str, whole: type[BaseModel], event: Any, step: Step
) -> None:
    dialect, body = DIALECTS[kind], {"model": "m", "stream_options": {"include_usage": True}}

    whole.model_validate_json(dialect.reply(body, step, 1))

    stream = b"".join(dialect.events(body, step, 1))
    data = [line.removeprefix(b"data: ") for line in stream.splitlines() if line.startswith(b"data: ")]
    documents = [json.loads(each) for each in data if each != b"[DONE]"]
    assert documents
    for document in documents:
        TypeAdapter(event).validate_python(document)
