"""What a client calls a field of the canonical form, where its protocol has a word of its own for it."""

from __future__ import annotations

from collections.abc import Mapping

_PARTS = ("audio", "file", "image", "tool_calls", "tool_result")
"""They stand in what is said."""
_NAMES: Mapping[str, Mapping[str, str]] = {
    "openai_chat": {
        **dict.fromkeys(_PARTS, "messages"),
        "reasoning": "reasoning_effort",
        "thinking": "reasoning_content",
    },
    "openai_responses": {
        **dict.fromkeys((*_PARTS, "messages"), "input"),
        "logprobs": "top_logprobs",
        "thinking": "reasoning",
        "verbosity": "text.verbosity",
    },
    "anthropic_messages": {
        **dict.fromkeys(_PARTS, "messages"),
        "parallel_tool_calls": "disable_parallel_tool_use",
        "reasoning": "thinking",
        "stop": "stop_sequences",
        "user": "metadata.user_id",
    },
    "gemini": {
        **dict.fromkeys((*_PARTS, "messages", "thinking"), "contents"),
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
    },
}


def named(protocol: str, field: str) -> str:
    """The word of this protocol for a field of `Conversation` or a mark of its parts."""
    return _NAMES.get(protocol, {}).get(field, field)
