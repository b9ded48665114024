"""Adjust Messages API requests that pass through untranslated to an Anthropic account."""

from __future__ import annotations

from typing import Any

from llm_gateway.protocols.encrypted_reasoning import is_marked


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Remove thinking blocks that Anthropic did not sign: it rejects those of another vendor's model."""
    if not isinstance(messages := document.get("messages"), list):
        return document
    return {**document, "messages": [_without_foreign_thoughts(message) for message in messages]}


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
