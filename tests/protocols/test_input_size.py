"""The size of a request's input: its texts in bytes, and what has no size in the document; tools that providers run."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.conversation import (
    Audio,
    Conversation,
    File,
    Image,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.token_estimate import InputSize
from llm_gateway.json_outline import outline_of
from llm_gateway.protocols.input_size import hosted_tool, input_size
from llm_gateway.protocols.registry import PROTOCOLS
from tests.rows import each_row

URL = "https://a.example/b"


def size_of(protocol: str, document: dict[str, Any], **fields: Any) -> InputSize:
    def unread(_document: dict[str, Any]) -> Any:
        raise AssertionError("the document is measured as it is")

    return input_size(ClientRequest(protocol, document, unread, **fields))


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **fields}


def google(part: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [part]}], **fields}


@pytest.mark.parametrize("text", ["hello", "é" * 9, "中文", "QUJD" * 1000, "x" * 5000])
def test_no_text_counts_less_than_its_bytes(text: str) -> None:
    for protocol, document in (
        ("openai_chat", {"messages": [{"role": "user", "content": text}]}),
        ("openai_chat", {"messages": [], "tools": [{"type": "function", "function": {"description": text}}]}),
        ("openai_responses", {"input": [{"type": "reasoning", "encrypted_content": text}]}),
        ("anthropic_messages", {"system": [{"type": "text", "text": text}]}),
        (
            "anthropic_messages",
            {"messages": [{"content": [{"type": "document", "source": {"type": "text", "data": text}}]}]},
        ),
        ("gemini_content", google({"functionCall": {"name": "f", "args": {text: 1}}})),
        ("openai_embeddings", {"input": [text]}),
        ("openai_chat", {"messages": [], "functions": [{"name": "f", "description": text}]}),
        ("openai_chat", {"messages": [], "documents": [{"text": text}]}),
        ("anthropic_messages", {"messages": [], "output_config": {"format": {"schema": {"description": text}}}}),
    ):
        size = size_of(protocol, document)
        assert size.bytes >= len(text.encode()), (protocol, document)
        assert (size.pictures, size.has_files, size.has_audio) == (0, False, False)


def test_tokens_in_the_place_of_texts_are_counted() -> None:
    assert size_of("openai_embeddings", {"input": [[15339, 7, 1917], [5]]}).bytes >= 4


@each_row(
    ("protocol", "document"),
    [
        ("openai_chat", chat({"type": "image_url", "image_url": {"url": URL}})),
        ("openai_chat", chat({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'QUJD' * 9999}"}})),
        ("openai_responses", {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]}),
        ("openai_responses", {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}]}),
        ("anthropic_messages", chat({"type": "image", "source": {"type": "url", "url": URL}})),
        (
            "anthropic_messages",
            chat({"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": "QUJD"}}]}),
        ),
        ("gemini_content", google({"inlineData": {"mimeType": "image/png", "data": "QUJD"}})),
        ("gemini_content", google({"file_data": {"mime_type": "image/png", "file_uri": URL}})),
    ],
)
def test_pictures_count_by_their_number_wherever_they_are(protocol: str, document: dict[str, Any]) -> None:
    size = size_of(protocol, document)
    assert (size.pictures, size.has_files) == (1, False)
    assert size.bytes < 200


@each_row(
    ("protocol", "document"),
    [
        ("openai_chat", chat({"type": "file", "file": {"file_id": "file-1"}})),
        ("openai_chat", chat({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}})),
        ("openai_chat", chat({"type": "video_url", "video_url": {"url": URL}})),
        ("openai_chat", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        ("openai_responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": URL}]}]}),
        ("anthropic_messages", chat({"type": "document", "source": {"type": "url", "url": URL}})),
        ("gemini_content", google({"fileData": {"mimeType": "video/mp4", "fileUri": URL}})),
        ("gemini_content", google({"inline_data": {"mime_type": "application/pdf", "data": "QUJD"}})),
    ],
)
def test_files_have_no_size(protocol: str, document: dict[str, Any]) -> None:
    size = size_of(protocol, document)
    assert (size.pictures, size.has_files, size.has_audio) == (0, True, True)


def test_an_answer_can_be_audio() -> None:
    assert size_of("openai_chat", chat("Hi", modalities=["text", "audio"])).has_audio
    assert size_of(
        "gemini_content", google({"text": "Hi"}, generationConfig={"responseModalities": ["AUDIO"]})
    ).has_audio
    assert not size_of("openai_chat", chat("Hi", modalities=["text"])).has_audio


def test_a_conversation_has_the_same_contents() -> None:
    image = Image(media_type="image/png", data="QUJD")
    parts: list[Any] = [Text(text="Hi"), image, ToolResult(call_id="1", content=[image])]
    of_pictures = input_size(ClientRequest.of(Conversation(turns=[Turn(role="user", parts=parts)])))
    assert msgspec.structs.replace(of_pictures, bytes=0) == InputSize(pictures=2, is_plain=False)
    assert of_pictures.bytes < 100
    for part in (Audio(data="QUJD", format="wav"), File(media_type="application/pdf", data="QUJD")):
        assert input_size(ClientRequest.of(Conversation(turns=[Turn(role="user", parts=[part])]))).has_files


@pytest.mark.parametrize("text", ["hello", "中文" * 5000, "x" * 5000])
def test_no_text_of_a_conversation_counts_less_than_its_bytes(text: str) -> None:
    for part in (
        Text(text=text),
        ToolCall(id="1", name="f", arguments=text),
        ToolResult(call_id="1", content=[Text(text=text)]),
        Thinking(text=text),
    ):
        size = input_size(ClientRequest.of(Conversation(turns=[Turn(role="user", parts=[part])])))
        assert size.bytes >= len(text.encode())
        assert size.is_plain
    tool = Tool(name="f", description=text)
    assert input_size(ClientRequest.of(Conversation(turns=[], tools=[tool]))).bytes >= len(text.encode())


def test_each_message_of_a_conversation_takes_some_tokens() -> None:
    turns = [Turn(role="user", parts=[Text(text="a")])] * 1000
    assert input_size(ClientRequest.of(Conversation(turns=turns))).bytes > 8_000


SEEMS_A_PICTURE = {"content": [{"type": "image", "data": "QUJD" * 1000}]}


@each_row(
    ("protocol", "document"),
    [
        ("gemini_content", google({"functionResponse": {"name": "f", "response": SEEMS_A_PICTURE}})),
        ("gemini_content", google({"functionCall": {"name": "f", "args": SEEMS_A_PICTURE}})),
        ("anthropic_messages", chat({"type": "tool_use", "name": "f", "input": SEEMS_A_PICTURE})),
        ("openai_chat", chat("Hi", tools=[{"type": "function", "function": {"parameters": SEEMS_A_PICTURE}}])),
        ("openai_responses", {"input": "Hi", "text": {"format": {"type": "json_schema", "schema": SEEMS_A_PICTURE}}}),
    ],
)
def test_what_seems_a_picture_in_a_tools_json_is_a_text(protocol: str, document: dict[str, Any]) -> None:
    size = size_of(protocol, document)
    assert size.bytes > 4000
    assert size.pictures == 0


@pytest.mark.parametrize("name", ["cachedContent", "cached_content"])
def test_input_that_the_provider_has_stored_has_no_size(name: str) -> None:
    size = size_of("gemini_content", google({"text": "Hi"}, **{name: "cachedContents/1"}))
    assert size.has_files
    assert not size.is_plain


def test_the_rests_of_long_strings_count() -> None:
    text = 'say "' + "x y" * 40_000
    body = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
    outline = asyncio.run(outline_of(body, most_bytes=2**20))
    assert outline.held
    size = size_of("openai_chat", msgspec.json.decode(outline.text), held=outline.held)
    assert len(text) <= size.bytes < len(text) + 200
    [message] = msgspec.json.decode(outline.text)["messages"]
    turns = [Turn(role="user", parts=[Text(text=message["content"])])]
    request = ClientRequest.of(Conversation(turns=turns))
    request.held = outline.held
    assert len(text) <= input_size(request).bytes < len(text) + 200


WORDS = st.sampled_from(
    ["type", "image", "document", "source", "text", "tools", "audio", "role", "inlineData", "mimeType"]
)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
)


@given(ODD, ODD)
def test_documents_of_any_form_are_measured(value: Any, tools: Any) -> None:
    for protocol in PROTOCOLS.values():
        document = dict.fromkeys(protocol.input_fields, value) | {"tools": tools, "modalities": value}
        assert size_of(protocol.name, document).bytes >= 0
        assert hosted_tool(document) is None or isinstance(hosted_tool(document), str)


@each_row(
    ("document", "name"),
    [
        ({}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "name": "g"}]}, None),
        ({"tools": [{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]}, None),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}, {"function_declarations": []}]}, None),
        ({"tools": [{"type": "local_shell"}, {"type": "shell", "environment": {"type": "local"}}]}, None),
        ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "shell"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "code_execution_20250825"),
        ({"tools": [{"type": "mcp", "server_url": URL}]}, "mcp"),
        ({"tools": [{"googleSearch": {}}]}, "googleSearch"),
        ({"tools": [{"functionDeclarations": [], "url_context": {}}]}, "url_context"),
        ({"tools": "odd", "web_search_options": {}}, None),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
    ],
)
def test_tools_that_the_provider_runs_are_found(document: dict[str, Any], name: str | None) -> None:
    assert hosted_tool(document) == name
