"""Sample responses: the examples in the vendors' documentation, and responses built from parts."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.conversation import Conversation
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.upstream_call import UpstreamCall
from llm_gateway.worker.pipeline.translation import Translation
from tests.worker.pipeline.fakes import provider


def encode(kind: str, asked: Request, model: str, *, has_json_mode: bool = True) -> UpstreamCall:
    """Return the upstream call for a request to a provider of this kind."""
    asked_of = Candidate.of(provider(kind=kind, models=[model], has_json_mode=has_json_mode), model)
    return Translation().call(asked, asked_of)


def decode(kind: str, body: bytes) -> Reply:
    """Return the reply to POST /generate that a response body of this kind of provider contains."""
    return Translation().reply(
        ClientRequest.of(Conversation(turns=[])), provider(kind=kind), body, UpstreamCall("", b"")
    )


# The complete example of https://platform.openai.com/docs/api-reference/chat/create.
OPENAI: dict[str, Any] = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4.1-2025-04-14",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello! How can I assist you today?",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 2},
        "completion_tokens_details": {
            "reasoning_tokens": 4,
            "audio_tokens": 1,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "service_tier": "default",
}


def completion(message: object = None, finish_reason: object = "stop", **changes: Any) -> bytes:
    message = {"role": "assistant", "content": "Hello"} if message is None else message
    usage = {"prompt_tokens": 19, "completion_tokens": 10}
    document = {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage, **changes}
    return msgspec.json.encode({key: value for key, value in document.items() if value is not ...})


# The example of https://platform.claude.com/docs/en/api/messages, with every count in the reference.
ANTHROPIC: dict[str, Any] = {
    "id": "msg_013Zva2CMHLNnjNjtJKqJ2EF",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5-5",
    "content": [
        {"type": "thinking", "thinking": "", "signature": "EosnCkYICxIMMb3LzNrMu…"},
        {"type": "text", "text": "Hi! My name is Claude.", "citations": None},
    ],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "stop_details": None,
    "container": None,
    "usage": {
        "input_tokens": 2095,
        "cache_creation_input_tokens": 2051,
        "cache_read_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 51, "ephemeral_1h_input_tokens": 2000},
        "output_tokens": 503,
        "output_tokens_details": {"thinking_tokens": 400},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": "us",
    },
}

ANTHROPIC_TOOL: dict[str, Any] = {
    **ANTHROPIC,
    "content": [
        {"type": "thinking", "thinking": "", "signature": "EosnCkYICxIMMb3LzNrMu…"},
        {"type": "text", "text": "I will answer by the tool."},
        {
            "type": "tool_use",
            "id": "toolu_01D7FLrfh4GYq7yT1ULFeyMV",
            "name": "json_answer",
            "input": {"capital": "Paris", "of": ["France"]},
            "caller": {"type": "direct"},
        },
    ],
    "stop_reason": "tool_use",
}

# After https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse and the guide on thinking.
GEMINI: dict[str, Any] = {
    "candidates": [
        {
            "content": {
                "parts": [
                    {"text": "The user wants a greeting.", "thought": True},
                    {"text": "Hello! ", "thoughtSignature": "CpwBAVSoXO6U"},
                    {"text": "How can I help?"},
                ],
                "role": "model",
            },
            "finishReason": "STOP",
            "avgLogprobs": -0.1,
            "index": 0,
            "safetyRatings": [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}],
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 700,
        "cachedContentTokenCount": 512,
        "candidatesTokenCount": 9,
        "thoughtsTokenCount": 61,
        "toolUsePromptTokenCount": 30,
        "totalTokenCount": 800,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 660}, {"modality": "AUDIO", "tokenCount": 40}],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 9}],
        "trafficType": "ON_DEMAND",
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "wv4GacGYKdXy7M8P0pTd4AI",
}

GEMINI_BLOCKED: dict[str, Any] = {
    "promptFeedback": {
        "blockReason": "PROHIBITED_CONTENT",
        "safetyRatings": [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True}],
    },
    "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
    "modelVersion": "gemini-2.5-flash",
    "responseId": "wv4GacGYKdXy7M8P0pTd4AI",
}
