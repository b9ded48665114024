"""Write OpenAI's list of models, and single entries: https://platform.openai.com/docs/api-reference/models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llm_gateway.protocols.descriptor import ListedModel


def write_model(model: ListedModel) -> bytes:
    """Encode the response of `GET /v1/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel]) -> bytes:
    """Encode the response of `GET /v1/models`."""
    return msgspec.json.encode({"object": "list", "data": [_document(model) for model in models]})


def _document(model: ListedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created_ms // 1000, "owned_by": model.owner}
