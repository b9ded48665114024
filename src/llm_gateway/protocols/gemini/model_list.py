"""Google's list of models: https://ai.google.dev/api/models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llm_gateway.protocols.descriptor import ListedModel

PREFIX = "models/"
METHODS = ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"]
"""Whether a model has embeddings is known to its provider only."""


def write_model(model: ListedModel) -> bytes:
    """Return the answer of `GET /v1beta/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel]) -> bytes:
    """Return the answer of `GET /v1beta/models`: one page with all of them."""
    return msgspec.json.encode({"models": [_document(model) for model in models]})


def _document(model: ListedModel) -> dict[str, Any]:
    """Return one model. The gateway knows no limits of it, so none are in it."""
    return {"name": PREFIX + model.name, "displayName": model.name, "supportedGenerationMethods": METHODS}
