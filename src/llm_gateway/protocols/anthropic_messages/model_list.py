"""Write model lists in Anthropic's format: https://platform.claude.com/docs/en/api/models-list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from llm_gateway.protocols.descriptor import ListedModel


def write_model(model: ListedModel) -> bytes:
    """Encode the response to `GET /v1/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel]) -> bytes:
    """Encode the response to `GET /v1/models`: one page with all models."""
    data = [_document(model) for model in models]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return msgspec.json.encode({"data": data, "has_more": False, **ends})


def _document(model: ListedModel) -> dict[str, Any]:
    created = datetime.fromtimestamp(model.created_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model.name, "display_name": model.name, "created_at": created}
