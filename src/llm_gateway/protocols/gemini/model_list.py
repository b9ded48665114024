"""Write model lists in Google's format: https://ai.google.dev/api/models."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llm_gateway.errors import Invalid
from llm_gateway.protocols.descriptor import ListedModel
from llm_gateway.protocols.page_size import page_size

PREFIX = "models/"
CHAT_METHODS = ("generateContent", "streamGenerateContent", "countTokens")
EMBEDDING_METHODS = ("embedContent", "batchEmbedContents")
DEFAULT_PAGE, MAX_PAGE = 50, 1000
"""Models on a page; a larger number is lowered: https://ai.google.dev/api/models#method:-models.list, read on
2026-11-27."""


def write_model(model: ListedModel) -> bytes:
    """Encode the response to `GET /v1beta/models/{model}`."""
    return msgspec.json.encode(_document(model))


def write_models(models: Sequence[ListedModel], query: Mapping[str, str]) -> bytes:
    """Encode the response to `GET /v1beta/models`: the page that begins at `pageToken`, of `pageSize` models.

    `nextPageToken` holds the name of the last model of the page, so changes of the configuration skip no other model.

    Raises:
        Invalid: a parameter is not valid.
    """
    asked = page_size(query, "pageSize", default=DEFAULT_PAGE, least=0, maximum=999_999_999)
    size = min(asked or DEFAULT_PAGE, MAX_PAGE)
    start = _start(models, query["pageToken"]) if query.get("pageToken") else 0
    page = models[start : start + size]
    document: dict[str, Any] = {"models": [_document(model) for model in page]}
    if page and start + size < len(models):
        document["nextPageToken"] = base64.urlsafe_b64encode(page[-1].name.encode()).decode()
    return msgspec.json.encode(document)


def _start(models: Sequence[ListedModel], token: str) -> int:
    try:
        last = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        last = ""
    for place, model in enumerate(models):
        if model.name == last:
            return place + 1
    raise Invalid("pageToken: it is not one of this list: start again without it.", loc=("query", "pageToken"))


def _document(model: ListedModel) -> dict[str, Any]:
    known = {"inputTokenLimit": model.context_window, "outputTokenLimit": model.max_output_tokens}
    methods = [*(CHAT_METHODS if model.has_chat else ()), *(EMBEDDING_METHODS if model.has_embeddings else ())]
    return {
        "name": PREFIX + model.name,
        "displayName": model.name,
        "supportedGenerationMethods": methods,
        **{name: tokens for name, tokens in known.items() if tokens is not None},
    }
