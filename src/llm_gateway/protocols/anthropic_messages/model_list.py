"""Write model lists in Anthropic's format: https://platform.claude.com/docs/en/api/models-list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from llm_gateway.errors import Invalid
from llm_gateway.protocols.descriptor import ListedModel
from llm_gateway.protocols.page_size import page_size

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000
"""Models on a page: https://platform.claude.com/docs/en/api/models-list, read on 2026-11-27."""


def write_model(model: ListedModel) -> bytes:
    """Encode the response to `GET /v1/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel], query: Mapping[str, str]) -> bytes:
    """Encode the response to `GET /v1/models`: the page after `after_id`, or before `before_id`.

    `has_more` tells whether models follow in the direction of the paging.

    Raises:
        Invalid: `limit` is out of range, both cursors are sent, or one is not the id of a listed model.
    """
    limit = page_size(query, "limit", default=DEFAULT_LIMIT, least=1, maximum=MAX_LIMIT)
    if query.get("after_id") and query.get("before_id"):
        raise Invalid("after_id and before_id: send one of them.", loc=("query", "before_id"))
    if query.get("before_id"):
        end = _place(models, query, "before_id")
        page, has_more = models[max(0, end - limit) : end], end > limit
    else:
        start = _place(models, query, "after_id") + 1 if query.get("after_id") else 0
        page, has_more = models[start : start + limit], start + limit < len(models)
    data = [_document(model) for model in page]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return msgspec.json.encode({"data": data, "has_more": has_more, **ends})


def _place(models: Sequence[ListedModel], query: Mapping[str, str], name: str) -> int:
    wanted = query[name]
    for place, model in enumerate(models):
        if model.name == wanted:
            return place
    raise Invalid(
        f"{name}: no model {wanted[:100]!r} is listed any more: start again without {name}.", loc=("query", name)
    )


def _document(model: ListedModel) -> dict[str, Any]:
    """Return the entry of one model, without `capabilities`: Anthropic's object is complete or missing."""
    created = datetime.fromtimestamp(model.created_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {"max_input_tokens": model.context_window, "max_tokens": model.max_output_tokens}
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": created,
        "lifecycle": "active",
        **{name: tokens for name, tokens in known.items() if tokens is not None},
    }
