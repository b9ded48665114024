"""Minimal generateContent requests for tests, and shortcuts to read parts of them."""

from __future__ import annotations

from typing import Any

from llm_gateway.domain.conversation import (
    Conversation,
    Part,
    Turn,
)
from llm_gateway.protocols import gemini

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
GOOGLE_SCHEMA = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
ASKS = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}


def asking(**fields: Any) -> dict[str, Any]:
    """Return a minimal request with additional fields."""
    return {**ASKS, **fields}


def configured(**config: Any) -> Conversation:
    """Return the conversation read from a request with this `generationConfig`."""
    return gemini.read_request(asking(generationConfig=config)).conversation


def said(*contents: dict[str, Any]) -> list[Turn]:
    """Return the turns read from contents."""
    return gemini.read_request({"contents": list(contents)}).conversation.turns


def part_of(part: dict[str, Any]) -> Part:
    """Return the canonical part read from the only part of a user's content."""
    [turn] = said({"parts": [part]})
    [found] = turn.parts
    return found


def snake(value: Any) -> Any:
    """Return the document with Google's field names in snake_case."""
    if isinstance(value, list):
        return [snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    free = ("args", "response", "properties", "parametersJsonSchema", "responseJsonSchema")
    return {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in name): one if name in free else snake(one)
        for name, one in value.items()
    }
