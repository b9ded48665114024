"""Write OpenAI's list of models, and single entries: https://platform.openai.com/docs/api-reference/models.

OpenAI's own entries say nothing about a model. Clients of compatible vendors read more fields. Entries have them if
the values are known:

    context_length, pricing                 OpenRouter, https://openrouter.ai/docs/models
    context_window, max_completion_tokens   Groq, quoted in https://github.com/anomalyco/models.dev/pull/1276
    max_model_len                           vLLM, quoted in https://github.com/modal-labs/modal-examples/issues/843

All were read on 2026-11-27.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from llm_gateway.domain.usage import NANOS_PER_USD, Price
from llm_gateway.protocols.descriptor import ListedModel

PRICED = {
    "prompt": "input",
    "completion": "output",
    "input_cache_read": "cache_read",
    "input_cache_write": "cache_write",
    "internal_reasoning": "reasoning",
    "audio": "audio_input",
}
"""Field of `pricing` → kind of `Price`."""
TOKENS_PER_PRICE = 1_000_000


def write_model(model: ListedModel) -> bytes:
    """Encode the response of `GET /v1/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel], _query: Mapping[str, str]) -> bytes:
    """Encode the response of `GET /v1/models`: all models, since OpenAI's list has no pages."""
    return msgspec.json.encode({"object": "list", "data": [_document(model) for model in models]})


def _document(model: ListedModel) -> dict[str, Any]:
    document = {"id": model.name, "object": "model", "created": model.created_ms // 1000, "owned_by": model.owner}
    if model.context_window is not None:
        document |= dict.fromkeys(("context_length", "context_window", "max_model_len"), model.context_window)
    if model.max_output_tokens is not None:
        document |= dict.fromkeys(("max_output_tokens", "max_completion_tokens"), model.max_output_tokens)
    if model.price is not None:
        document["pricing"] = _pricing(model.price)
    return document | {"capabilities": _capabilities(model)}


def _capabilities(model: ListedModel) -> dict[str, bool]:
    """Return what is known: accounts that accept chats mostly accept embeddings, too, but not for the same models."""
    return {"chat": True} if model.has_chat else {"chat": False, "embeddings": model.has_embeddings}


def _pricing(price: Price) -> dict[str, str]:
    """Return prices in USD per token, as OpenRouter's strings; of tiers the first, for short inputs."""
    tiers = {field: getattr(price, kind) for field, kind in PRICED.items()}
    return {field: _per_token(tier[0][1]) for field, tier in tiers.items() if tier}


def _per_token(nanos: int) -> str:
    usd = Decimal(nanos) / (NANOS_PER_USD * TOKENS_PER_PRICE)
    return f"{usd.normalize():f}"
