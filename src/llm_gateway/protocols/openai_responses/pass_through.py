"""Adjust Responses API requests that pass through untranslated to an account that speaks it."""

from __future__ import annotations

from typing import Any

from llm_gateway.protocols.encrypted_reasoning import GATEWAY_PREFIX


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Set `store` to false, since OpenAI stores responses by default, and drop other vendors' reasoning items."""
    document = {**document, "store": False}
    if isinstance(items := document.get("input"), list):
        document["input"] = [item for item in items if not _is_encoded_by_gateway(item)]
    return document


def _is_encoded_by_gateway(item: Any) -> bool:
    """Return whether the item is another vendor's reasoning, encoded in `encrypted_reasoning.py`."""
    return (
        isinstance(item, dict)
        and item.get("type") == "reasoning"
        and str(item.get("encrypted_content")).startswith(GATEWAY_PREFIX)
    )
