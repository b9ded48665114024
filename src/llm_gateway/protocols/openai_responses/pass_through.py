"""Requests of the Responses API that pass through to a provider of the same protocol."""

from __future__ import annotations

from typing import Any

from llm_gateway.protocols.openai_responses.sealed import OURS


def pass_on(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Ask the vendor to store nothing, whose default is to store, and leave other vendors' thoughts out."""
    document = {**document, "store": False}
    if isinstance(items := document.get("input"), list):
        document["input"] = [item for item in items if not _is_ours(item)]
    return document


def _is_ours(item: Any) -> bool:
    """Whether it is another vendor's thought, in the envelope in which this surface gave it."""
    return (
        isinstance(item, dict)
        and item.get("type") == "reasoning"
        and str(item.get("encrypted_content")).startswith(OURS)
    )
