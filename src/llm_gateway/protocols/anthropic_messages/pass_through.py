"""Adjust Messages API requests that pass through untranslated to an Anthropic account."""

from __future__ import annotations

from typing import Any

from llm_gateway.protocols.encrypted_reasoning import is_marked


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Remove thinking blocks that Anthropic did not sign: it rejects those of another vendor's model."""
    if not isinstance(messages := document.get("messages"), list):
        return document
    return {**document, "messages": [_without_foreign_thoughts(message) for message in messages]}


def without_signatures(document: dict[str, Any]) -> bool:
    """Remove all thinking from the messages, in place; return whether there was any.

    A thinking budget is removed with it if the last answer has tool calls, which must then begin with thinking, and so
    are the settings that require it:
    https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks
    """
    messages = document.get("messages")
    answers = [message for message in messages if _has_blocks(message)] if isinstance(messages, list) else []
    found = False
    for message in answers:
        kept = [block for block in message["content"] if not _is_thinking(block)]
        found |= len(kept) < len(message["content"])
        message["content"] = kept
    if not found:
        return False
    document["messages"] = [message for message in messages or () if not _has_blocks(message) or message["content"]]
    thinking = document.get("thinking")
    last = answers[-1]["content"]
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and any(map(_is_call, last)):
        del document["thinking"]
        _drop_thinking_edits(document)
    return True


def _drop_thinking_edits(document: dict[str, Any]) -> None:
    """Remove the edits of `context_management` that require thinking.

    https://platform.claude.com/docs/en/build-with-claude/context-editing#thinking-block-clearing
    """
    management = document.get("context_management")
    edits = management.get("edits") if isinstance(management, dict) else None
    if isinstance(management, dict) and isinstance(edits, list):
        management["edits"] = [edit for edit in edits if not _is_of_thinking(edit)]


def _is_of_thinking(edit: Any) -> bool:
    return isinstance(edit, dict) and str(edit.get("type")).startswith("clear_thinking")


def _has_blocks(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), list)


def _is_thinking(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking")


def _is_call(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_use"


def _without_foreign_thoughts(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") != "assistant":
        return message
    kept = [block for block in content if not _is_foreign(block)]
    return message if not kept or len(kept) == len(content) else {**message, "content": kept}


def _is_foreign(block: Any) -> bool:
    if not isinstance(block, dict):
        return False
    if block.get("type") == "thinking":
        signature = block.get("signature")
        return not signature or is_marked(str(signature))
    return block.get("type") == "redacted_thinking" and is_marked(str(block.get("data")))
