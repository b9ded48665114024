"""Google's field names: conversion from snake_case to camelCase, and names for canonical fields.

Google's parsers accept both spellings: https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_gateway.protocols.descriptor import PART_KINDS

FIELD_NAMES: Mapping[str, str] = {
    **dict.fromkeys((*PART_KINDS, "messages", "thinking"), "contents"),
    "format": "generationConfig.responseMimeType",
    "frequency_penalty": "generationConfig.frequencyPenalty",
    "logprobs": "generationConfig.responseLogprobs",
    "max_tokens": "generationConfig.maxOutputTokens",
    "n": "generationConfig.candidateCount",
    "parallel_tool_calls": "toolConfig",
    "presence_penalty": "generationConfig.presencePenalty",
    "reasoning": "generationConfig.thinkingConfig",
    "seed": "generationConfig.seed",
    "service_tier": "serviceTier",
    "stop": "generationConfig.stopSequences",
    "temperature": "generationConfig.temperature",
    "tool_choice": "toolConfig",
    "top_k": "generationConfig.topK",
    "top_logprobs": "generationConfig.logprobs",
    "top_p": "generationConfig.topP",
}
"""Canonical field (of `Conversation`) → path in a Gemini request, for error messages."""


def camel_names(document: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its own field names in camelCase; nested objects stay unchanged.

    Call it only for objects that Google defines: keys of schemas, arguments and results belong to the client.
    """
    if not any("_" in name for name in document):
        return document
    return {_camel(name): value for name, value in document.items()}


def _camel(name: str) -> str:
    if name.startswith("_"):
        return name  # older SDKs send `_responseJsonSchema`
    first, *others = name.split("_")
    return first + "".join([other[:1].upper() + other[1:] for other in others])
