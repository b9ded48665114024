"""Adjust Responses API requests that pass through untranslated to an account that speaks it."""

from __future__ import annotations

from typing import Any

from llm_gateway.protocols.openai_responses.sealed import OURS


def pass_on(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Set `store` to false, since OpenAI stores responses by default, and drop other vendors' reasoning items."""
    document = {**document, "store": False}
    if isinstance(items := document.get("input"), list):
        document["input"] = [item for item in items if not _is_ours(item)]
    return document


def _is_ours(item: Any) -> bool:
    """Return whether the item is another vendor's reasoning, in the envelope that the gateway made (`sealed.py`)."""
    return (
        isinstance(item, dict)
        and item.get("type") == "reasoning"
        and str(item.get("encrypted_content")).startswith(OURS)
    )
