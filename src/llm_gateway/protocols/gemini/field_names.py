"""Google's field names: its parsers take lowerCamelCase and the original snake_case alike.

https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_gateway.protocols.descriptor import PARTS

FIELD_NAMES: Mapping[str, str] = {
    **dict.fromkeys((*PARTS, "messages", "thinking"), "contents"),
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
"""Words for fields of `Conversation`."""


def camel_names(document: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its own field names in camelCase; objects within it stay as they are.

    Only messages that Google defines may be renamed: names inside of schemas, arguments and results are the client's.
    """
    if not any("_" in name for name in document):
        return document
    return {_camel(name): value for name, value in document.items()}


def _camel(name: str) -> str:
    if name.startswith("_"):
        return name  # `_responseJsonSchema`, as older SDKs spell it
    first, *others = name.split("_")
    return first + "".join([other[:1].upper() + other[1:] for other in others])
