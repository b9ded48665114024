"""Tests with request parts from the vendors' documentation: content blocks, files, thinking settings, system texts."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.conversation import (
    Conversation,
    File,
    Image,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    ToolResult,
    Turn,
)
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Unreadable, Unsupported

Document = dict[str, Any]
PDF = "JVBERi0="
ASKS = [Turn(role="user", parts=[Text(text="Hi")])]
BLOCKS: dict[str, tuple[Document, Part]] = {
    "https://platform.claude.com/docs/en/build-with-claude/vision": (
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        Image(url="https://example.com/a.png"),
    ),
    "https://platform.claude.com/docs/en/build-with-claude/files": (
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}, "title": "a"},
        File(name="a", file_id="file_1"),
    ),
    "https://platform.claude.com/docs/en/build-with-claude/pdf-support": (
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        File(media_type="application/pdf", data=PDF),
    ),
    "https://platform.claude.com/docs/en/build-with-claude/citations": (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "The grass is green."}},
        Text(text="The grass is green."),
    ),
    "https://platform.claude.com/docs/en/build-with-claude/search-results": (
        {
            "type": "search_result", "source": "https://example.com", "title": "Titel 😀",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        },
        Text(text="Titel 😀\none\ntwo"),
    ),
    "https://platform.claude.com/docs/en/build-with-claude/prompt-caching": (
        {"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        Text(text="long", cache="1h"),
    ),
    "https://platform.claude.com/docs/en/build-with-claude/extended-thinking": (
        {"type": "redacted_thinking", "data": "x"},
        Thinking(redacted="x"),
    ),
    "https://platform.claude.com/docs/en/agents-and-tools/tool-use/handle-tool-calls": (
        {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True},
        ToolResult(call_id="toolu_1", content=[], is_error=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("source", BLOCKS)
def test_a_content_block_of_the_messages_api_is_read(source: str) -> None:
    block, part = BLOCKS[source]
    document = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}

    [turn] = anthropic_messages.read_request(document).conversation.turns

    assert turn.parts == [part]
    assert turn.role == ("tool" if isinstance(part, ToolResult) else "user")


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"type": "document", "citations": {"enabled": True}}, "citations"),
        ({"type": "image", "source": {"type": "s3"}}, "source.type"),
        ({"type": "image"}, "source.type"),
        ({"type": "container_upload", "file_id": "f"}, "type"),
    ],
    ids=str,
)
def test_a_block_that_only_anthropic_knows_is_refused(block: Document, field: str) -> None:
    document = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}

    with pytest.raises(Unsupported) as refused:
        anthropic_messages.read_request(document)

    assert refused.value.field == f"messages[0].content[0].{field}"


@pytest.mark.parametrize(
    ("thinking", "config", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, {}, Reasoning(budget_tokens=2048)),
        ({"type": "adaptive"}, {"effort": "high"}, Reasoning(effort="high")),
        ({"type": "adaptive", "display": "summarized"}, {}, Reasoning(show=True)),
        ({"type": "adaptive", "display": "omitted"}, {}, Reasoning(show=False)),
        ({"type": "disabled"}, {}, Reasoning(effort="none")),
        (None, {"effort": "max"}, Reasoning(effort="max")),
        (None, {}, None),
    ],
    ids=str,
)
def test_thinking_settings_of_the_messages_api_are_read(
    thinking: Any, config: Document, expected: Reasoning | None
) -> None:
    document = {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "thinking": thinking}

    assert anthropic_messages.read_request({**document, "output_config": config}).conversation.reasoning == expected


@pytest.mark.parametrize(("budget", "effort"), [(512, "low"), (2047, "low"), (2048, "medium"), (16384, "high")])
def test_a_thinking_budget_becomes_a_reasoning_effort_at_openai(budget: int, effort: str) -> None:
    conversation = Conversation(turns=ASKS, reasoning=Reasoning(budget_tokens=budget))

    written = openai_chat.write_request(conversation, "gpt-5.2", stream=False)

    assert (written.document["reasoning_effort"], written.dropped) == (effort, ())
    assert openai_chat.write_request(conversation, "gpt-4o", stream=False).dropped == ("reasoning",)


def test_an_invalid_thinking_budget_is_refused_with_its_path() -> None:
    document = {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "thinking": {"type": "enabled"}}
    for odd in (0, "many", 1.5, True):
        thinking = {"type": "enabled", "budget_tokens": odd}
        with pytest.raises(Unreadable, match=r"^thinking\.budget_tokens must be "):
            anthropic_messages.read_request({**document, "thinking": thinking})


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\x1f"])
def test_a_blank_system_text_is_not_sent_to_anthropic(blank: str) -> None:
    """Anthropic answers with 400, "system: text content blocks must contain non-whitespace text"."""
    system = [Turn(role="system", parts=[Text(text=blank, cache="5m")])]
    written = anthropic_messages.write_request(Conversation(turns=system + ASKS), "claude-haiku-4-5", stream=False)

    assert "system" not in written.document
    kept = [Turn(role="system", parts=[Text(text=blank), Text(text="Be brief.")])]
    written = anthropic_messages.write_request(Conversation(turns=kept + ASKS), "claude-haiku-4-5", stream=False)
    assert written.document["system"] == "Be brief."


@pytest.mark.parametrize("role", ["system", "developer"])
def test_an_empty_system_text_is_not_sent_to_openai_or_gemini(role: Any) -> None:
    conversation = Conversation(turns=[Turn(role=role, parts=[Text(text="")]), *ASKS])

    document = openai_chat.write_request(conversation, "gpt-4o", stream=False).document
    assert document["messages"] == [{"role": "user", "content": "Hi"}]
    assert "systemInstruction" not in gemini.write_request(conversation, "gemini-2.5-pro", stream=False).document


def test_the_json_instruction_follows_a_cached_system_text() -> None:
    system = [Turn(role="system", parts=[Text(text="Be brief.", cache="5m")])]
    conversation = Conversation(turns=system + ASKS, format=ResponseFormat())

    document = anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False).document

    brief, instruction = document["system"]
    assert brief == {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    assert "json_answer" in instruction["text"]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (File(media_type="text/csv", data="/w=="), "file"),
        (File(file_id="f"), "file"),
        (Image(file_id="f"), "image"),
    ],
    ids=str,
)
def test_files_that_anthropic_cannot_read_are_refused(part: Part, field: str) -> None:
    conversation = Conversation(turns=[Turn(role="user", parts=[part])])

    with pytest.raises(Unsupported) as refused:
        anthropic_messages.write_request(conversation, "claude-haiku-4-5", stream=False)

    assert refused.value.field == field


def test_files_of_the_responses_api_are_read() -> None:
    """Sources: https://platform.openai.com/docs/guides/pdf-files and …/guides/images-vision."""
    content = [
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        {"type": "input_image", "file_id": "file-2", "detail": "high"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
    ]

    [turn] = openai_responses.read_request({"input": [{"role": "user", "content": content}]}).conversation.turns

    assert turn.parts == [
        File(url="https://example.com/a.pdf"),
        File(file_id="file-1"),
        File(name="a.pdf", media_type="application/pdf", data=PDF),
        Image(file_id="file-2", detail="high"),
        Image(url="https://example.com/a.png", detail="auto"),
    ]
