"""Adjust Responses API requests that pass through untranslated to an account that speaks it."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.reasoning_models import reasons
from llm_gateway.protocols.encrypted_reasoning import GATEWAY_PREFIX, RESPONSES_PREFIX
from llm_gateway.protocols.openai_chat.pass_through import mend_arguments
from llm_gateway.protocols.openai_responses.request_writer import ENCRYPTED_REASONING


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Set `store` to false, since OpenAI stores responses by default, and make the next turn work without storage.

    Models that reason return their reasoning in encrypted form then, as OpenAI's do by default: clients append the
    output to the next input, as its guides show, and an item without its content would be looked up and not found. Such
    items, and other vendors' reasoning, are left out of the input.
    """
    document = {**document, "store": False}
    if isinstance(items := document.get("input"), list):
        document["input"] = [item for item in items if not _is_unreadable(item)]
    include = document.get("include")
    if reasons(str(document.get("model"))) and (include is None or isinstance(include, list)):
        requested = include or []
        if ENCRYPTED_REASONING not in requested:
            document["include"] = [*requested, ENCRYPTED_REASONING]
    return document


def without_signatures(document: dict[str, Any]) -> bool:
    """Remove the reasoning items from the input, in place; return whether there were any."""
    items = document.get("input")
    if not isinstance(items, list):
        return False
    document["input"] = [item for item in items if not (isinstance(item, dict) and item.get("type") == "reasoning")]
    return len(document["input"]) < len(items)


def with_valid_arguments(document: dict[str, Any]) -> bool:
    """Make the arguments of all function calls JSON objects, in place; return whether any was none.

    For vendors that refuse other texts (`lenient_decoding.arguments_text`).
    """
    items = document.get("input")
    found = False
    for item in items if isinstance(items, list) else ():
        found |= isinstance(item, dict) and item.get("type") == "function_call" and mend_arguments(item)
    return found


def _is_unreadable(item: Any) -> bool:
    """Return whether the item is reasoning without its content, or encoded in `encrypted_reasoning.py`."""
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    encrypted = item.get("encrypted_content")
    if encrypted:
        return str(encrypted).startswith((GATEWAY_PREFIX, RESPONSES_PREFIX))
    return not item.get("content")
