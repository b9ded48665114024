"""Write model lists in Google's format: https://ai.google.dev/api/models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llm_gateway.protocols.descriptor import ListedModel

PREFIX = "models/"
METHODS = ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"]
"""Methods listed for every model: the gateway does not know which models have embeddings."""


def write_model(model: ListedModel) -> bytes:
    """Encode the response to `GET /v1beta/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel]) -> bytes:
    """Encode the response to `GET /v1beta/models`: one page with all models."""
    return msgspec.json.encode({"models": [_document(model) for model in models]})


def _document(model: ListedModel) -> dict[str, Any]:
    """Return the entry of one model, without token limits, which the gateway does not know."""
    return {"name": PREFIX + model.name, "displayName": model.name, "supportedGenerationMethods": METHODS}
