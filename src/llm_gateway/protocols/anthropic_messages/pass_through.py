"""Adjust Messages API requests that pass through untranslated to an Anthropic account."""

from __future__ import annotations

from typing import Any


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Remove thinking blocks without a signature: another vendor's model wrote them, and Anthropic rejects them."""
    if not isinstance(messages := document.get("messages"), list):
        return document
    return {**document, "messages": [_without_unsigned_thoughts(message) for message in messages]}


def _without_unsigned_thoughts(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") != "assistant":
        return message
    kept = [block for block in content if not _is_unsigned(block)]
    return message if not kept or len(kept) == len(content) else {**message, "content": kept}


def _is_unsigned(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
